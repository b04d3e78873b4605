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
    order: IncomingOrder | None = None  # None: known from the journal alone, after a restart
    state: SideState = SideState.PREPARING
    preparation: asyncio.Task[None] | None = None
    restoring: asyncio.Task[None] | None = None
    asking: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    settling: asyncio.Task[None] | None = None
    receivers: set[asyncio.Task[object]] = field(default_factory=set)
    holding: bool = False  # packets for the address may have come here
    resumed: bool = False
    pid: int | None = None
    lifecycle: Lifecycle | None = None  # as the source has said; not known after a restart
    resume_microseconds: int = 0
    failure: TransshipError | None = None
    log_tail: str = ""

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """The present task receives files, until it is done or the arrival ends."""
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
        """Before it is held: the rest of what it waits for will not come."""
        if self.restoring is not None:
            self.restoring.cancel()
            await asyncio.wait([self.restoring])

    async def end_receiving(self) -> None:
        """Nothing writes below the container's home any more."""
        receivers = tuple(self.receivers)
        for task in receivers:
            task.cancel()
        if receivers:
            await asyncio.wait(receivers)

    def fail(self, cause: BaseException) -> None:
        """Note why this side is over."""
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
