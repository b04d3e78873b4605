"""The two roles of a migration, as the HTTP handlers call them: source.Source, target.Target."""

from __future__ import annotations

from collections.abc import AsyncIterable, Collection
from typing import Protocol

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


class SourceRole(Protocol):
    """Moves containers away."""

    async def begin(self, order: OutgoingOrder) -> MigrationReport: ...

    def report(self, migration: str) -> MigrationReport | None: ...

    async def abort(self, migration: str, *, container: str) -> MigrationReport: ...

    def verdict(self, migration: str) -> VerdictReply: ...

    async def forget(self, migration: str, *, gone: Collection[str] = ()) -> None: ...


class TargetRole(Protocol):
    """Moves containers here."""

    async def begin(self, order: IncomingOrder) -> MigrationReport: ...

    def report(self, migration: str) -> MigrationReport | None: ...

    async def abort(self, migration: str) -> MigrationReport: ...

    async def memory(self, migration: str) -> MemoryEndpoint: ...

    def memory_state(self, migration: str) -> MemoryState: ...

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None: ...

    async def hold(self, migration: str) -> None: ...

    async def restore(
        self, migration: str, request: RestoreRequest, *, body: AsyncIterable[bytes]
    ) -> RestoreReply: ...

    async def decide(self, notice: VerdictNotice) -> ResumeReply: ...

    async def forget(self, migration: str) -> None: ...
