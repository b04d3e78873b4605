"""One incoming migration as the target sees it: its order, its progress, what to report."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from transship.agent.migration.stopwatch import Stopwatch
from transship.agentapi.migrations import IncomingOrder, Lifecycle, MigrationReport
from transship.agentapi.states import SideState
from transship.common.errors import TransshipError


@dataclass
class IncomingMigration:
    """Progress of one incoming migration. Lives in memory: the journal's record is the truth."""

    migration: str
    container: str
    epoch: int
    watch: Stopwatch
    # None: known from the journal alone, after a restart
    order: IncomingOrder | None = None
    state: SideState = SideState.PREPARING
    preparation: asyncio.Task[None] | None = None
    restoring: asyncio.Task[None] | None = None
    polling: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    settling: asyncio.Task[None] | None = None
    receivers: set[asyncio.Task[object]] = field(default_factory=set)
    # packets for the address may have been queued here
    holding: bool = False
    resumed: bool = False
    pid: int | None = None
    # from the source; not known after a restart
    lifecycle: Lifecycle | None = None
    resume_microseconds: int = 0
    failure: TransshipError | None = None
    log_tail: str = ""

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Note that the present task receives files: end_receiving cancels it."""
        task = asyncio.current_task()
        assert task is not None
        self.receivers.add(task)
        try:
            yield
        finally:
            self.receivers.discard(task)

    async def end_preparation(self) -> None:
        if self.preparation is not None:
            self.preparation.cancel()
            await asyncio.wait([self.preparation])

    async def end_restoring(self) -> None:
        """Cancel a restore under way: what it waits for will not come."""
        if self.restoring is not None:
            self.restoring.cancel()
            await asyncio.wait([self.restoring])

    async def end_receiving(self) -> None:
        """Cancel all file transfers: nothing writes below the container's home any more."""
        receivers = tuple(self.receivers)
        for task in receivers:
            task.cancel()
        if receivers:
            await asyncio.wait(receivers)

    def fail(self, cause: BaseException) -> None:
        """Report why the migration has failed on this side."""
        known = cause if isinstance(cause, TransshipError) else None
        self.failure = known or TransshipError(f"{type(cause).__name__}: {cause}")
        self.log_tail = getattr(cause, "log_tail", "")
        self.state = SideState.FAILED

    def report(self) -> MigrationReport:
        failure = self.failure
        return MigrationReport(
            migration=self.migration,
            state=self.state,
            steps=self.watch.steps,
            reason="" if failure is None else failure.reason,
            message="" if failure is None else failure.message[:4096],
            hint="" if failure is None else failure.hint,
            log_tail=self.log_tail,
        )
