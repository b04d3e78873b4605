"""What a move would take, predicted from measurements of the container and of the link. Pure.

It plays through the decisions that a move takes (memory.convergence), round after round, with the
rate of writes that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from transship import strategies
from transship.api.migration import Prediction
from transship.api.obstacle import Obstacle
from transship.api.placement import Compression, MigrationSettings, PostCopy, Strategy
from transship.api.quantity import bytes_of
from transship.linux.pages import PAGE_BYTES
from transship.memory.convergence import CopyAction, CopyDecision, decide_next
from transship.memory.copy_progress import OVERHEAD_SECONDS, CopyProgress, CopyRound, HandoverCost
from transship.strategies import MigrationStrategy

PREPARE_SECONDS = 0.5
"""Image, root file system, network and page server on a target that has the image already."""
COMPRESSION_BYTES_PER_SECOND = 600e6
"""What one core compresses: on a faster link pages are sent uncompressed."""


@dataclass(frozen=True)
class ChangeSample:
    """How many pages had changed after so many seconds."""

    seconds: float
    pages: int


@dataclass(frozen=True)
class Measurements:
    """What was measured of a container and of the link to its target.

    changes: in order of time; a page that is written repeatedly counts once. link_rate: bytes per
    second. compressed_share: the size of compressed pages, as a share of their content.
    """

    pages: int
    zero_pages: int
    changes: tuple[ChangeSample, ...]
    link_rate: float
    compressed_share: float = 1.0
    file_bytes: int = 0

    def changed_after(self, seconds: float) -> int:
        """Pages changed in that time: interpolated between samples, extrapolated after them."""
        points = (ChangeSample(0.0, 0), *self.changes)
        for before, after in pairwise(points):
            if seconds <= after.seconds:
                return _interpolated(before, after, seconds)
        if len(points) < 2:
            return 0
        extrapolated = _interpolated(points[-2], points[-1], seconds)
        return max(points[-1].pages, min(extrapolated, self.pages))

    @property
    def changes_per_second(self) -> float:
        """Bytes per second, averaged over all samples."""
        last = self.changes[-1] if self.changes else ChangeSample(1.0, 0)
        return last.pages * PAGE_BYTES / last.seconds


def _interpolated(first: ChangeSample, second: ChangeSample, seconds: float) -> int:
    slope = (second.pages - first.pages) / max(second.seconds - first.seconds, 1e-6)
    return max(0, round(first.pages + slope * (seconds - first.seconds)))


@dataclass(frozen=True)
class PredictedMove:
    """The strategy that would be used, what the move would take, and why it would fail."""

    strategy: Strategy
    prediction: Prediction | None
    choice: str = ""
    obstacle: Obstacle | None = None


def predict(
    measurements: Measurements, *, settings: MigrationSettings, cost: HandoverCost
) -> PredictedMove:
    """Predict a move with these settings."""
    move = _Move(measurements, settings, cost)
    strategy = strategies.of(settings.strategy)
    if strategy.ends_instance:
        return PredictedMove(
            settings.strategy,
            None,
            "the container is stopped, its files are moved, and it is started again",
        )
    if strategy.copies_memory_in_rounds:
        return _predict_rounds(move)
    return _predict_post_copy(move) if strategy.memory_follows else _predict_stop_and_copy(move)


def prediction_of(progress: CopyProgress, strategy: MigrationStrategy) -> Prediction:
    """What a handover now would take, in the form of the migration's status.

    With PostCopy the blackout has no part for memory, but the move ends only when all of it has
    arrived.
    """
    expected = progress.expected_handover()
    follows = strategy.memory_follows
    blackout = progress.cost.fixed if follows else expected.blackout
    total = progress.elapsed + blackout + (progress.final_copy_seconds if follows else 0.0)
    return Prediction(
        strategy=strategy.name,
        blackout_milliseconds=min(round(blackout * 1e3), 2**31 - 1),
        total_milliseconds=round(total * 1e3),
        bytes=expected.bytes,
        explanation=expected.explanation,
    )


@dataclass(frozen=True)
class _Move:
    """The move to predict."""

    measurements: Measurements
    settings: MigrationSettings
    cost: HandoverCost

    @property
    def bandwidth(self) -> float | None:
        """The user's limit, in bytes per second."""
        limit = self.settings.max_bandwidth
        return None if limit is None else float(bytes_of(limit))

    @property
    def rate(self) -> float:
        """Bytes per second before the freeze."""
        return min(self.measurements.link_rate, self.bandwidth or self.measurements.link_rate)

    @property
    def seconds_before_memory(self) -> float:
        return PREPARE_SECONDS + self.measurements.file_bytes / self.rate

    @property
    def memory_bytes(self) -> int:
        """All of the memory, on the wire."""
        return self.wire_bytes(self.measurements.pages - self.measurements.zero_pages)

    def wire_bytes(self, pages: int) -> int:
        """The size of so many pages on the wire."""
        compression = self.settings.compression or Compression.AUTO
        compresses = compression is Compression.ZSTD or (
            compression is Compression.AUTO and self.rate < COMPRESSION_BYTES_PER_SECOND
        )
        share = self.measurements.compressed_share if compresses else 1.0
        return round(pages * PAGE_BYTES * share)

    def without_rounds(
        self, *, blackout: float, after_resume: float, explanation: str
    ) -> PredictedMove:
        """All of the memory is sent after the freeze. Times in seconds."""
        total = self.seconds_before_memory + blackout + after_resume
        prediction = Prediction(
            strategy=self.settings.strategy,
            blackout_milliseconds=round(blackout * 1e3),
            total_milliseconds=round(total * 1e3),
            bytes=self.memory_bytes + self.measurements.file_bytes,
            explanation=explanation,
        )
        return PredictedMove(self.settings.strategy, prediction)


def _predict_stop_and_copy(move: _Move) -> PredictedMove:
    memory = OVERHEAD_SECONDS + move.memory_bytes / move.measurements.link_rate
    return move.without_rounds(
        blackout=move.cost.fixed + max(0.0, memory - move.cost.overlap),
        after_resume=0.0,
        explanation=f"all of the memory inside the freeze: {memory * 1e3:.0f} ms",
    )


def _predict_post_copy(move: _Move) -> PredictedMove:
    memory = move.memory_bytes / move.measurements.link_rate
    return move.without_rounds(
        blackout=move.cost.fixed,
        after_resume=memory,
        explanation=f"all of the memory after the resume, in {memory * 1e3:.0f} ms: until then the "
        "container waits for each page that it touches, and is started again if the source fails",
    )


def _predict_rounds(move: _Move) -> PredictedMove:
    limit = move.settings.max_downtime_milliseconds
    start = CopyProgress(
        strategy=move.settings.strategy,
        rounds=(),
        cost=move.cost,
        elapsed=move.seconds_before_memory,
        deadline=move.settings.deadline,
        max_downtime=None if limit is None else limit / 1e3,
        post_copy=move.settings.post_copy is PostCopy.ALLOWED,
        bandwidth=move.bandwidth,
    )
    progress, decision = _play_rounds(start, move)
    strategy = strategies.of(move.settings.strategy).at_start()
    if decision.action is CopyAction.POST_COPY:
        strategy = strategies.POST_COPY
    prediction = prediction_of(progress, strategy)
    all_bytes = prediction.bytes + move.measurements.file_bytes
    return PredictedMove(
        strategy.name,
        prediction.model_copy(update={"bytes": all_bytes}),
        decision.message,
        decision.obstacle,
    )


def _play_rounds(progress: CopyProgress, move: _Move) -> tuple[CopyProgress, CopyDecision]:
    """Copy round after round until something else is decided."""
    while True:
        decision = decide_next(progress)
        if decision.action is CopyAction.THROTTLE:
            progress = replace(progress, cpu_share=decision.cpu_share)
        elif decision.action is not CopyAction.COPY_ROUND:
            return progress, decision
        progress = _after_round(progress, move)


def _after_round(progress: CopyProgress, move: _Move) -> CopyProgress:
    measurements, first = move.measurements, not progress.rounds
    pages = measurements.pages if first else progress.last_round.remaining_pages or 0
    zeros = measurements.zero_pages if first else 0
    size = move.wire_bytes(pages - zeros)
    seconds = OVERHEAD_SECONDS + size / move.rate
    cpu_share = 1.0 if progress.cpu_share is None else progress.cpu_share
    done = CopyRound(
        pages=pages,
        content_bytes=(pages - zeros) * PAGE_BYTES,
        bytes=size,
        seconds=seconds,
        rate=measurements.link_rate,
        remaining_pages=measurements.changed_after(seconds * cpu_share),
    )
    return replace(progress, rounds=(*progress.rounds, done), elapsed=progress.elapsed + seconds)
