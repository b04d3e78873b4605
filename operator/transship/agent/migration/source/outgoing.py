"""One outgoing migration as the source sees it: its order, its progress, its state per phase.

All of it lives in memory: what was promised about the container is in the journal's record.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from transship import strategies
from transship.agent.migration.handover_queue import Place
from transship.agent.migration.source.files import FileCopy
from transship.agent.migration.stopwatch import Stopwatch
from transship.agentapi.migrations import MemoryEndpoint, MigrationReport, OutgoingOrder
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import MemoryTraffic, Prediction, Round, StepName
from transship.api.progress import percent_of
from transship.api.quantity import bytes_of
from transship.common.clock import Clock
from transship.common.errors import TransshipError
from transship.memory.copy_progress import CopyRound
from transship.strategies import MigrationStrategy
from transship.streams.bandwidth_limit import BandwidthLimit

LONGEST_TEXT = 4096


@dataclass
class Progress:
    """What the source reports of a migration."""

    watch: Stopwatch
    # the one in use, which may not be the ordered one, and why
    strategy: MigrationStrategy
    choice: str = ""
    state: SideState = SideState.COPYING
    verdict: Verdict = Verdict.UNDECIDED
    prediction: Prediction | None = None
    rounds: tuple[Round, ...] = ()
    traffic: MemoryTraffic | None = None
    # of files, memory and images
    bytes: int = 0
    blackout_microseconds: int | None = None
    failure: TransshipError | None = None
    failed_step: StepName | None = None
    log_tail: str = ""

    def note_failure(self, cause: BaseException) -> None:
        """Report why the migration has ended without a release."""
        known = cause if isinstance(cause, TransshipError) else None
        self.failure = known or TransshipError(f"{type(cause).__name__}: {cause}")
        self.log_tail = getattr(cause, "log_tail", "")
        cancelled = self.failure.reason == "MigrationCancelled"
        self.state = SideState.CANCELLED if cancelled else SideState.FAILED

    def add_memory(self, pushed: MemoryTraffic) -> None:
        """Count what was sent after the resume, too."""
        self.bytes += pushed.wire_bytes
        self.traffic = pushed if self.traffic is None else _sum(self.traffic, pushed)

    def report(self, migration: str) -> MigrationReport:
        failure = self.failure
        step = f"{self.failed_step.value}: " if self.failed_step is not None else ""
        return MigrationReport(
            migration=migration,
            state=self.state,
            verdict=self.verdict,
            strategy=self.strategy.name,
            choice=self.choice[:LONGEST_TEXT],
            prediction=self.prediction,
            memory=self.traffic,
            percent=100 if self.state is SideState.DONE else percent_of(self.watch.steps),
            steps=self.watch.steps,
            rounds=self.rounds,
            blackout_microseconds=self.blackout_microseconds,
            blackout_parts=self.watch.parts if self.blackout_microseconds is not None else (),
            bytes=self.bytes,
            reason="" if failure is None else failure.reason,
            message="" if failure is None else (step + failure.message)[:LONGEST_TEXT],
            hint="" if failure is None else failure.hint,
            log_tail=self.log_tail,
        )


@dataclass
class PreparationState:
    """Before the freeze: what was copied of which instance."""

    began: float
    # limits all that is sent before the freeze
    bandwidth: BandwidthLimit
    # process 1 of what is moved; None: nothing runs
    instance: int | None = None
    files: FileCopy | None = None
    # what receives the memory on the target
    page_server: MemoryEndpoint | None = None
    rounds: tuple[CopyRound, ...] = ()
    # share of its CPU time that the container keeps; None: it cannot be throttled
    cpu_share: float | None = 1.0
    place: Place | None = None


@dataclass
class FreezeState:
    """From the freeze to the decision."""

    frozen_at: float | None = None
    # the journal may have Released, even if writing it has failed
    release_tried: bool = False


@dataclass
class RollbackState:
    """What an abort still has to undo."""

    is_throttled: bool = True
    is_reachable: bool = False


@dataclass
class CompletionState:
    """After the release."""

    # held by whoever ends the frozen copy
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    # the target has all of the memory that was to follow
    is_memory_sent: bool = False
    # the operator has noted the end while memory was still being sent
    is_forgotten: bool = False


class OutgoingMigration:
    """One migration of a container away from this node."""

    def __init__(self, order: OutgoingOrder, *, clock: Clock) -> None:
        limit = order.settings.max_bandwidth
        bandwidth = BandwidthLimit(None if limit is None else float(bytes_of(limit)))
        self.order = order
        self.progress = Progress(Stopwatch(clock), self.ordered_strategy.at_start())
        self.preparation = PreparationState(clock.monotonic(), bandwidth)
        self.freeze = FreezeState()
        self.rollback = RollbackState()
        self.completion = CompletionState()
        self.cancelled = False
        self.handover_task: asyncio.Task[None] | None = None
        """Up to the decision: an abort cancels it."""
        self.task: asyncio.Task[None] | None = None
        """All of it; a rollback in it is never cancelled."""

    @property
    def ordered_strategy(self) -> MigrationStrategy:
        return strategies.of(self.order.strategy)

    @property
    def strategy(self) -> MigrationStrategy:
        """The one in use."""
        return self.progress.strategy

    @property
    def watch(self) -> Stopwatch:
        return self.progress.watch

    @property
    def is_cold(self) -> bool:
        return self.strategy.ends_instance

    @property
    def is_handing_over(self) -> bool:
        """Neither released nor rolled back yet."""
        return self.handover_task is not None and not self.handover_task.done()

    @property
    def was_frozen_stopped(self) -> bool:
        """Nothing ran at the freeze: after a rollback the next start comes at its own time."""
        is_frozen = self.progress.state is not SideState.COPYING
        return is_frozen and self.preparation.instance is None

    def begin_with(self, instance: int | None) -> None:
        """Forget what was copied of an earlier instance's memory: this one has another memory."""
        self.watch.forget_open()
        self.preparation.instance = instance
        self.preparation.rounds, self.preparation.cpu_share = (), 1.0
        self.progress.rounds, self.progress.prediction = (), None
        self.progress.strategy, self.progress.choice = self.ordered_strategy.at_start(), ""
        if instance is None:
            self.continue_cold()

    def continue_cold(self) -> None:
        """Nothing runs: there is nothing to freeze, to dump or to restore."""
        self.preparation.instance = None
        if not self.is_cold:
            self.progress.strategy = self.strategy.for_container(stopped=True)
            self.progress.choice = strategies.NOT_RUNNING

    def leave_queue(self) -> None:
        """Let the next one be handed over; can be repeated."""
        if self.preparation.place is not None:
            self.preparation.place.leave()

    def report(self) -> MigrationReport:
        return self.progress.report(self.order.migration)


def _sum(one: MemoryTraffic, other: MemoryTraffic) -> MemoryTraffic:
    content = one.page_bytes + other.page_bytes
    compressed = sum(part.page_bytes * (part.compressed_percent or 0) for part in (one, other))
    return MemoryTraffic(
        page_bytes=content,
        zero_page_bytes=one.zero_page_bytes + other.zero_page_bytes,
        wire_bytes=one.wire_bytes + other.wire_bytes,
        compressed_percent=round(compressed / content) if content else None,
    )
