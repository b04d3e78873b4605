"""The two roles of a migration and its prediction, as far as the HTTP service calls them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection

from transship.agent.journal.store import Journal
from transship.agent.journal.transitions import verdict
from transship.agent.migration.roles import SourceRole, TargetRole
from transship.agentapi.migrations import (
    IncomingOrder,
    MemoryEndpoint,
    MemoryLoss,
    MemoryState,
    MigrationReport,
    OutgoingOrder,
    RestoreReply,
    RestoreRequest,
    ResumeReply,
    VerdictNotice,
    VerdictReply,
)
from transship.agentapi.predictions import PredictionReply, PredictionRequest
from transship.agentapi.states import SideState
from transship.api.placement import Strategy
from transship.common.errors import Refused


class FakeSource(SourceRole):
    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.reports: dict[str, MigrationReport] = {}
        self.aborted: dict[str, str] = {}  # the container, by migration
        self.forgotten: dict[str, tuple[str, ...]] = {}  # the nodes that are gone, by migration

    async def begin(self, order: OutgoingOrder) -> MigrationReport:
        report = MigrationReport(migration=order.migration, state=SideState.COPYING)
        self.reports[order.migration] = report
        return report

    def report(self, migration: str) -> MigrationReport | None:
        return self.reports.get(migration)

    async def abort(self, migration: str, *, container: str) -> MigrationReport:
        self.aborted[migration] = container
        return self.reports[migration].model_copy(update={"state": SideState.CANCELLED})

    def verdict(self, migration: str) -> VerdictReply:
        record = self._journal.of_migration(migration)
        return VerdictReply(
            verdict=verdict(record, migration), epoch=0 if record is None else record.epoch
        )

    async def forget(self, migration: str, *, gone: Collection[str] = ()) -> None:
        self.reports.pop(migration, None)
        self.forgotten[migration] = tuple(gone)


class FakeTarget(TargetRole):
    def __init__(self) -> None:
        self.reports: dict[str, MigrationReport] = {}
        self.restored: tuple[RestoreRequest, bytes] | None = None
        self.held: set[str] = set()
        self.memory_lost: dict[str, str] = {}  # why, by migration

    async def begin(self, order: IncomingOrder) -> MigrationReport:
        report = MigrationReport(migration=order.migration, state=SideState.PREPARING)
        self.reports[order.migration] = report
        return report

    def report(self, migration: str) -> MigrationReport | None:
        return self.reports.get(migration)

    async def abort(self, migration: str) -> MigrationReport:
        raise Refused("it runs here", reason="AlreadyHere", hint="move it back")

    async def memory(self, migration: str) -> MemoryEndpoint:
        return MemoryEndpoint(address="127.0.0.1", port=1)

    def memory_state(self, migration: str) -> MemoryState:
        return MemoryState(awaited=migration not in self.memory_lost)

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None:
        self.memory_lost[migration] = loss.why

    async def hold(self, migration: str) -> None:
        self.held.add(migration)

    async def restore(
        self, migration: str, request: RestoreRequest, *, body: AsyncIterable[bytes]
    ) -> RestoreReply:
        self.restored = (request, b"".join([block async for block in body]))
        return RestoreReply()

    async def decide(self, notice: VerdictNotice) -> ResumeReply:
        return ResumeReply(state=SideState.RUNNING)

    async def forget(self, migration: str) -> None:
        self.reports.pop(migration, None)


async def predict(container: str, wish: PredictionRequest) -> PredictionReply:
    return PredictionReply(strategy=Strategy.PRE_COPY, choice=f"{container} to {wish.target.node}")
