"""One outgoing migration as the source sees it: its order, its progress, what to report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from transship.agent.filecopy import FileCopy
from transship.agent.stopwatch import Stopwatch
from transship.api.migration import Round, StepName
from transship.common.errors import TransshipError
from transship.protocol.migrations import MigrationReport, OutgoingOrder
from transship.protocol.states import SideState, Verdict

_PERCENT = {
    StepName.COPY_FILES: 10,
    StepName.COPY_MEMORY: 30,
    StepName.FREEZE: 60,
    StepName.DUMP: 65,
    StepName.RESTORE: 80,
    StepName.DECIDE: 90,
    StepName.RESUME: 95,
    StepName.DRAIN: 97,
    StepName.DESTROY: 99,
}


@dataclass
class Departure:
    """Progress of one outgoing migration. Lives in memory: the journal's record is the truth."""

    order: OutgoingOrder
    watch: Stopwatch
    began: float
    state: SideState = SideState.COPYING
    verdict: Verdict = Verdict.UNDECIDED
    forward: asyncio.Task[None] | None = None  # up to the decision
    task: asyncio.Task[None] | None = None  # all of it
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the end of the frozen copy
    cancelled: bool = False
    release_tried: bool = False
    packets_come: bool = False  # again, after an abort
    files: FileCopy | None = None
    rounds: tuple[Round, ...] = ()
    bytes: int = 0
    frozen_at: float | None = None
    blackout_microseconds: int | None = None
    total_milliseconds: int | None = None
    failure: TransshipError | None = None
    failed_step: StepName | None = None
    log_tail: str = ""

    def report(self) -> MigrationReport:
        failure = self.failure
        step = f"{self.failed_step.value}: " if self.failed_step is not None else ""
        return MigrationReport(
            migration=self.order.migration,
            container=self.order.container,
            epoch=self.order.epoch,
            state=self.state,
            verdict=self.verdict,
            strategy=self.order.strategy,
            percent=self._percent(),
            steps=self.watch.steps,
            rounds=self.rounds,
            blackout_microseconds=self.blackout_microseconds,
            blackout_parts=self.watch.parts if self.blackout_microseconds is not None else (),
            total_milliseconds=self.total_milliseconds,
            bytes=self.bytes,
            reason="" if failure is None else failure.reason,
            message="" if failure is None else (step + failure.message)[:4096],
            hint="" if failure is None else failure.hint,
            log_tail=self.log_tail,
        )

    def _percent(self) -> int:
        if self.state is SideState.DONE:
            return 100
        current = self.watch.current
        return 0 if current is None else _PERCENT.get(current, 0)
