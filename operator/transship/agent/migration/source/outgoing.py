"""One outgoing migration as the source sees it: its order, its progress, what to report."""

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
from transship.common.errors import TransshipError
from transship.memory.copy_progress import CopyRound
from transship.strategies import MigrationStrategy
from transship.streams.bandwidth_limit import BandwidthLimit


@dataclass
class OutgoingMigration:
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
    strategy: MigrationStrategy = field(init=False)  # the one that is used
    bandwidth: BandwidthLimit = field(init=False)  # of all that is sent before the freeze
    share: float | None = 1.0  # of its CPU time that the container is left; None: all, always
    is_slow: bool = True  # until its brake is known to be released
    copied: tuple[CopyRound, ...] = ()
    rounds: tuple[Round, ...] = ()
    prediction: Prediction | None = None
    traffic: MemoryTraffic | None = None
    choice: str = ""  # what was chosen, and why
    page_server: MemoryEndpoint | None = None  # what receives the memory
    instance: int | None = None  # process 1 of what is moved; None: nothing runs
    files_copied: bool = False
    is_memory_sent: bool = False  # the target has all of the memory that was to follow
    forgotten: bool = False  # by the operator, before the memory was drained
    place: Place | None = None  # in the queue for the handover
    bytes: int = 0
    frozen_at: float | None = None
    blackout_microseconds: int | None = None
    failure: TransshipError | None = None
    failed_step: StepName | None = None
    log_tail: str = ""

    def __post_init__(self) -> None:
        self.strategy = self.ordered_strategy.at_start()
        limit = self.order.settings.max_bandwidth
        self.bandwidth = BandwidthLimit(None if limit is None else float(bytes_of(limit)))

    @property
    def ordered_strategy(self) -> MigrationStrategy:
        return strategies.of(self.order.strategy)

    @property
    def is_cold(self) -> bool:
        return self.strategy.ends_instance

    @property
    def at_rest(self) -> bool:
        """Frozen while nothing ran: whatever becomes of the move, its next start has its time."""
        return self.state is not SideState.COPYING and self.instance is None

    def begin_with(self, instance: int | None) -> None:
        """What was copied of an earlier instance's memory is of no use for this one."""
        self.watch.forget_open()
        self.instance = instance
        self.copied, self.rounds, self.prediction = (), (), None
        self.share = 1.0
        self.strategy, self.choice = self.ordered_strategy.at_start(), ""
        if instance is None:
            self.go_cold()

    def go_cold(self) -> None:
        """Nothing runs: there is nothing to freeze, to dump or to restore."""
        self.instance = None
        if not self.is_cold:
            self.strategy = self.strategy.for_container(stopped=True)
            self.choice = strategies.NOT_RUNNING

    def leave_queue(self) -> None:
        """Let the next one be handed over; can be repeated."""
        if self.place is not None:
            self.place.leave()

    def note_memory_sent(self, memory_sent: MemoryTraffic) -> None:
        """What followed after the resume is a part of the whole."""
        self.bytes += memory_sent.wire_bytes
        self.traffic = memory_sent if self.traffic is None else _both(self.traffic, memory_sent)

    def report(self) -> MigrationReport:
        failure = self.failure
        step = f"{self.failed_step.value}: " if self.failed_step is not None else ""
        return MigrationReport(
            migration=self.order.migration,
            state=self.state,
            verdict=self.verdict,
            strategy=self.strategy.name,
            choice=self.choice[:4096],
            prediction=self.prediction,
            memory=self.traffic,
            percent=self._percent(),
            steps=self.watch.steps,
            rounds=self.rounds,
            blackout_microseconds=self.blackout_microseconds,
            blackout_parts=self.watch.parts if self.blackout_microseconds is not None else (),
            bytes=self.bytes,
            reason="" if failure is None else failure.reason,
            message="" if failure is None else (step + failure.message)[:4096],
            hint="" if failure is None else failure.hint,
            log_tail=self.log_tail,
        )

    def _percent(self) -> int:
        if self.state is SideState.DONE:
            return 100
        return percent_of(self.watch.steps)


def _both(one: MemoryTraffic, other: MemoryTraffic) -> MemoryTraffic:
    content = one.page_bytes + other.page_bytes
    left = sum(each.page_bytes * (each.compressed_percent or 0) for each in (one, other))
    return MemoryTraffic(
        page_bytes=content,
        zero_page_bytes=one.zero_page_bytes + other.zero_page_bytes,
        wire_bytes=one.wire_bytes + other.wire_bytes,
        compressed_percent=round(left / content) if content else None,
    )
