"""Agents in memory: the contract's meaning without processes, and a guard against two copies.

A migration goes one state further whenever its source is asked for a report, up to `stop_at`. Every
change checks that no container runs twice.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from transship.agentapi.containers import ContainerOrder, ContainerReport
from transship.agentapi.migrations import (
    IncomingOrder,
    MemoryLoss,
    MigrationReport,
    OutgoingOrder,
    ResumeReply,
    VerdictNotice,
    VerdictReply,
)
from transship.agentapi.states import RecordState, RunState, SideState, Verdict
from transship.api.migration import BlackoutPart
from transship.api.node_agent import NodeAgent
from transship.api.placement import DesiredState
from transship.common.errors import Refused, TransshipError, Unreachable

OWNED = {RecordState.RUNNING, RecordState.STOPPED}


@dataclass
class Record:
    order: ContainerOrder
    epoch: int
    state: RecordState
    migration: str | None = None
    released_to: str = ""
    aborted: set[str] = field(default_factory=set)
    boot_seen: bool = True

    @property
    def runs(self) -> bool:
        return self.state == RecordState.RUNNING and self.order.state == DesiredState.RUNNING

    def report(self) -> ContainerReport:
        order = self.order
        run = {
            RecordState.RUNNING: RunState.RUNNING,
            RecordState.STOPPED: RunState.ABSENT,
            RecordState.INCOMING: RunState.ABSENT,
        }.get(self.state, RunState.FROZEN)
        if order.state == DesiredState.FROZEN and run == RunState.RUNNING:
            run = RunState.FROZEN
        lost = not self.boot_seen
        return ContainerReport(
            id=order.id, namespace=order.namespace, name=order.name, epoch=self.epoch,
            record=self.state, run=RunState.ABSENT if lost else run, ready=self.runs and not lost,
            image_digest="sha256:1", migration=self.migration,
            released_to=self.released_to,
            reason="AwaitingOrder" if lost else "",
        )  # fmt: skip


@dataclass
class OutgoingMigration:
    order: OutgoingOrder
    state: SideState = SideState.COPYING
    verdict: Verdict = Verdict.UNDECIDED
    failure: TransshipError | None = None


@dataclass
class FakeAgents:
    """All agents, the links between them, and the faults that a test wants."""

    nodes: dict[str, FakeAgent] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    cut: set[frozenset[str]] = field(default_factory=set)
    stop_at: SideState | None = None
    failing: dict[tuple[str, str], TransshipError] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def to(self, agent: NodeAgent) -> FakeAgent:
        return self.at(agent.metadata.name)

    def at(self, node: str) -> FakeAgent:
        return self.nodes.setdefault(node, FakeAgent(node, self))

    def runners(self, id: str) -> list[str]:
        return [
            n for n, agent in self.nodes.items() if id in agent.records and agent.records[id].runs
        ]

    def check_single(self, id: str) -> None:
        runners = self.runners(id)
        assert len(runners) <= 1, f"{id} runs on {runners}"

    def holders(self, id: str) -> list[str]:
        return sorted(n for n, agent in self.nodes.items() if id in agent.records)


class FakeAgent:
    def __init__(self, node: str, world: FakeAgents) -> None:
        self.node = node
        self.world = world
        self.records: dict[str, Record] = {}
        self.outgoing_migrations: dict[str, OutgoingMigration] = {}
        self.incoming_migrations: dict[str, MigrationReport] = {}
        self.incoming_containers: dict[str, str] = {}  # the container, by migration
        self.orders: list[ContainerOrder] = []
        self.nodes_gone: set[str] = set()

    def _enter(self, call: str) -> None:
        self.world.calls.append((self.node, call))
        if self.node in self.world.silent:
            raise Unreachable(f"{self.node} is silent", reason="AgentUnreachable")
        if (error := self.world.failing.get((self.node, call))) is not None:
            raise error

    def reboot(self) -> None:
        """A power cut: the disk stays, processes and what only the memory knew are gone."""
        self.outgoing_migrations.clear()
        self.incoming_migrations.clear()
        for id, record in list(self.records.items()):
            record.boot_seen = False
            if record.state == RecordState.FROZEN and record.migration is not None:
                record.aborted.add(record.migration)
                record.state, record.migration = RecordState.RUNNING, None
            if record.state == RecordState.INCOMING:
                del self.records[id]

    async def containers(self) -> tuple[ContainerReport, ...]:
        self._enter("containers")
        return tuple(record.report() for record in self.records.values())

    async def container(self, id: str) -> ContainerReport | None:
        self._enter("container")
        record = self.records.get(id)
        return None if record is None else record.report()

    async def put_container(self, order: ContainerOrder) -> ContainerReport:
        self._enter("put_container")
        self.orders.append(order)
        record = self.records.get(order.id)
        if record is not None and (record.state not in OWNED or order.epoch < record.epoch):
            raise Refused("not now", reason="InMigration")
        ended = record is None and order.completed
        stopped = order.state == DesiredState.STOPPED or ended
        state = RecordState.STOPPED if stopped else RecordState.RUNNING
        self.records[order.id] = Record(order, order.epoch, state)
        self.world.check_single(order.id)
        return self.records[order.id].report()

    async def remove_container(self, id: str, *, epoch: int) -> None:
        self._enter("remove_container")
        record = self.records.get(id)
        if record is not None and record.state not in OWNED:
            raise Refused("in a migration", reason="InMigration")
        self.records.pop(id, None)

    async def outgoing(self, migration: str) -> MigrationReport | None:
        self._enter("outgoing")
        outgoing = self.outgoing_migrations.get(migration)
        if outgoing is None:
            return None
        self._advance(outgoing)
        return self._outgoing_report(outgoing)

    async def begin_outgoing(self, order: OutgoingOrder) -> MigrationReport:
        self._enter("begin_outgoing")
        record = self.records[order.container]
        assert record.epoch == order.epoch
        if order.migration in record.aborted:
            raise Refused("aborted", reason="AlreadyAborted")
        if order.migration not in self.outgoing_migrations:
            record.migration = order.migration
            self.outgoing_migrations[order.migration] = OutgoingMigration(order)
        return self._outgoing_report(self.outgoing_migrations[order.migration])

    async def abort_outgoing(self, migration: str, *, container: str) -> MigrationReport | None:
        self._enter("abort_outgoing")
        outgoing = self.outgoing_migrations.get(migration)
        if outgoing is None:
            if (record := self.records.get(container)) is not None:
                record.aborted.add(migration)
            return None
        if outgoing.verdict == Verdict.UNDECIDED:
            cause = TransshipError("cancelled", reason="MigrationCancelled")
            self._roll_back(outgoing, cause, state=SideState.CANCELLED)
        return self._outgoing_report(outgoing)

    async def verdict(self, migration: str) -> VerdictReply:
        self._enter("verdict")
        for record in self.records.values():
            if migration in record.aborted:
                return VerdictReply(verdict=Verdict.ABORTED, epoch=record.epoch)
            if record.migration == migration and record.state == RecordState.RELEASED:
                return VerdictReply(verdict=Verdict.RELEASED, epoch=record.epoch)
        return VerdictReply(verdict=Verdict.UNKNOWN, epoch=0)

    async def forget_outgoing(self, migration: str, *, gone: Collection[str] = ()) -> None:
        self._enter("forget_outgoing")
        self.nodes_gone.update(gone)
        outgoing = self.outgoing_migrations.get(migration)
        if outgoing is not None and outgoing.verdict == Verdict.UNDECIDED:
            raise Refused("under way", reason="Refused")
        self.outgoing_migrations.pop(migration, None)
        for id, record in list(self.records.items()):
            if record.migration == migration and record.state == RecordState.RELEASED:
                del self.records[id]

    async def incoming(self, migration: str) -> MigrationReport | None:
        self._enter("incoming")
        report = self.incoming_migrations.get(migration)
        if report is None:
            return None
        paused = self.world.stop_at == SideState.PREPARING
        if report.state == SideState.PREPARING and not paused:
            failure = self.world.failing.get((self.node, "prepare"))
            self._arrive(migration, SideState.FAILED if failure else SideState.PREPARED, failure)
            if failure is not None:
                self.records.pop(self.incoming_containers[migration], None)
        return report

    async def begin_incoming(self, order: IncomingOrder) -> MigrationReport:
        self._enter("begin_incoming")
        wanted = order.order
        if order.migration not in self.incoming_migrations:
            present = self.records.get(wanted.id)
            if present is not None and present.state != RecordState.RELEASED:
                raise Refused("is here", reason="AlreadyRunning")
            record = Record(wanted, wanted.epoch, RecordState.INCOMING, order.migration)
            self.records[wanted.id] = record
            self.incoming_containers[order.migration] = wanted.id
            self.incoming_migrations[order.migration] = MigrationReport(
                migration=order.migration, state=SideState.PREPARING
            )
        return self.incoming_migrations[order.migration]

    async def abort_incoming(self, migration: str) -> None:
        self._enter("abort_incoming")
        report = self.incoming_migrations.get(migration)
        if report is None:
            return
        record = self.records.get(self.incoming_containers[migration])
        if record is not None and record.state == RecordState.HELD:
            raise Refused("held", reason="Held")
        self._drop(migration)

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None:
        self._enter("lose_memory")

    async def relay(self, notice: VerdictNotice) -> ResumeReply | None:
        self._enter("relay")
        return self.decide(notice)

    async def forget_incoming(self, migration: str) -> None:
        self._enter("forget_incoming")
        report = self.incoming_migrations.get(migration)
        if report is not None and not report.state.finished:
            raise Refused("under way", reason="Refused")
        self.incoming_migrations.pop(migration, None)

    def decide(self, notice: VerdictNotice) -> ResumeReply | None:
        report = self.incoming_migrations.get(notice.migration)
        if report is None:
            return None
        if notice.verdict == Verdict.ABORTED:
            self._drop(notice.migration)
            return ResumeReply(state=SideState.CANCELLED)
        record = self.records[self.incoming_containers[notice.migration]]
        assert record.state in {RecordState.HELD, RecordState.RUNNING}
        record.state, record.migration = RecordState.RUNNING, None
        self._arrive(notice.migration, SideState.RUNNING)
        self.world.check_single(self.incoming_containers[notice.migration])
        return ResumeReply(state=SideState.RUNNING)

    def _drop(self, migration: str) -> None:
        self.records.pop(self.incoming_containers[migration], None)
        self._arrive(migration, SideState.CANCELLED)

    def _arrive(
        self, migration: str, state: SideState, failure: TransshipError | None = None
    ) -> None:
        said = {"reason": failure.reason, "message": failure.message} if failure else {}
        self.incoming_migrations[migration] = self.incoming_migrations[migration].model_copy(
            update={"state": state, **said}
        )

    def _advance(self, outgoing: OutgoingMigration) -> None:
        """The agents' own part of a migration, one state at a time."""
        record, peer = self.records.get(outgoing.order.container), outgoing.order.target.node
        if record is None or outgoing.state == self.world.stop_at:
            return
        cut = frozenset({self.node, peer}) in self.world.cut or peer in self.world.silent
        match outgoing.state:
            case SideState.COPYING | SideState.FROZEN if cut:
                lost = TransshipError("the target does not answer", reason="TargetUnreachable")
                self._roll_back(outgoing, lost, state=SideState.FAILED)
            case SideState.COPYING:
                self._freeze(outgoing, record)
            case SideState.FROZEN:
                self._release(outgoing, record)
            case SideState.RELEASED if not cut:
                self._give_go(outgoing, record)
            case _:
                pass

    def _freeze(self, outgoing: OutgoingMigration, record: Record) -> None:
        failure = self.world.failing.get((self.node, "dump"))
        if failure is not None:
            self._roll_back(outgoing, failure, state=SideState.FAILED)
            return
        record.state, outgoing.state = RecordState.FROZEN, SideState.FROZEN

    def _release(self, outgoing: OutgoingMigration, record: Record) -> None:
        target = self.world.at(outgoing.order.target.node)
        target.records[record.order.id].state = RecordState.HELD
        target._arrive(outgoing.order.migration, SideState.HELD)
        record.state, record.epoch = RecordState.RELEASED, record.epoch + 1
        record.released_to = target.node
        outgoing.state, outgoing.verdict = SideState.RELEASED, Verdict.RELEASED

    def _give_go(self, outgoing: OutgoingMigration, record: Record) -> None:
        notice = VerdictNotice(
            migration=outgoing.order.migration, verdict=Verdict.RELEASED, epoch=record.epoch
        )
        if self.world.at(outgoing.order.target.node).decide(notice) is not None:
            outgoing.state = SideState.DONE

    def _roll_back(
        self, outgoing: OutgoingMigration, cause: TransshipError, *, state: SideState
    ) -> None:
        record = self.records[outgoing.order.container]
        record.state, record.migration = RecordState.RUNNING, None
        record.aborted.add(outgoing.order.migration)
        outgoing.state, outgoing.verdict = state, Verdict.ABORTED
        outgoing.failure = cause
        self.world.check_single(record.order.id)
        peer = outgoing.order.target.node
        if peer not in self.world.silent and frozenset({self.node, peer}) not in self.world.cut:
            target = self.world.at(peer)
            if outgoing.order.migration in target.incoming_migrations:
                target._drop(outgoing.order.migration)

    def _outgoing_report(self, outgoing: OutgoingMigration) -> MigrationReport:
        done = outgoing.state == SideState.DONE
        failure = outgoing.failure
        return MigrationReport(
            migration=outgoing.order.migration,
            state=outgoing.state,
            verdict=outgoing.verdict,
            blackout_microseconds=123_000 if done else None,
            blackout_parts=(BlackoutPart(name="Dump", microseconds=60_000),) if done else (),
            bytes=4096,
            reason=failure.reason if failure else "",
            message=failure.message if failure else "",
            log_tail="Error (criu/...)" if failure else "",
        )
