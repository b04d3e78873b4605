"""What a move would be like, from a short look at the container and the link. Pure.

The same decisions that a move takes (memory.convergence) are played through, round after round,
with the container's writes as they were seen.
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
from transship.memory.convergence import (
    OVERHEAD_SECONDS,
    Act,
    Cost,
    Decision,
    Seen,
    decide,
    expected,
    memory_seconds,
)
from transship.memory.rounds import CopyRound
from transship.strategies import MigrationStrategy

PREPARE_SECONDS = 0.5
"""Image, root file system, network and page server on a target that has the image already."""
PACKING_BYTES_PER_SECOND = 600e6
"""What one core compresses: on a faster link pages go as they are."""


@dataclass(frozen=True)
class Sample:
    """So many pages had been changed after so many seconds."""

    seconds: float
    pages: int


@dataclass(frozen=True)
class Load:
    """What was measured. rates in bytes a second; packed: what compression leaves, as a share.

    changes: growing with time; a page that is written again and again counts once.
    """

    pages: int
    zero_pages: int
    changes: tuple[Sample, ...]
    link_rate: float
    packed: float = 1.0
    file_bytes: int = 0

    def changed_after(self, seconds: float) -> int:
        """Pages changed in that time: between the samples in proportion, beyond them as fast."""
        points = (Sample(0.0, 0), *self.changes)
        for before, after in pairwise(points):
            if seconds <= after.seconds:
                return _between(before, after, seconds)
        if len(points) < 2:
            return 0
        found = _between(points[-2], points[-1], seconds)
        return max(points[-1].pages, min(found, self.pages))

    @property
    def changes_per_second(self) -> float:
        """Bytes, as at the end of the look."""
        last = self.changes[-1] if self.changes else Sample(1.0, 0)
        return last.pages * PAGE_BYTES / last.seconds


def _between(one: Sample, other: Sample, seconds: float) -> int:
    slope = (other.pages - one.pages) / max(other.seconds - one.seconds, 1e-6)
    return max(0, round(one.pages + slope * (seconds - one.seconds)))


@dataclass(frozen=True)
class Forecast:
    """The strategy that it would come to, what that costs, and what would make it fail."""

    strategy: Strategy
    prediction: Prediction | None
    choice: str = ""
    obstacle: Obstacle | None = None


def predict(load: Load, *, settings: MigrationSettings, cost: Cost) -> Forecast:
    """Play the move through."""
    strategy = strategies.of(settings.strategy)
    if strategy.ends_instance:
        return Forecast(
            settings.strategy, None, "the container is ended, its files are moved, it starts anew"
        )
    if strategy.copies_memory_in_rounds:
        return _in_rounds(load, settings, cost)
    return (
        _followed(load, settings, cost)
        if strategy.memory_follows
        else _stopped(load, settings, cost)
    )


def _stopped(load: Load, settings: MigrationSettings, cost: Cost) -> Forecast:
    size = _wire(load, load.pages - load.zero_pages, settings)
    memory = OVERHEAD_SECONDS + size / load.link_rate
    blackout = cost.fixed + max(0.0, memory - cost.beside)
    prediction = Prediction(
        strategy=settings.strategy,
        blackout_milliseconds=round(blackout * 1e3),
        total_milliseconds=round((_before(load, settings) + blackout) * 1e3),
        bytes=size + load.file_bytes,
        explanation=f"all of the memory inside the freeze: {memory * 1e3:.0f} ms",
    )
    return Forecast(settings.strategy, prediction)


def _followed(load: Load, settings: MigrationSettings, cost: Cost) -> Forecast:
    size = _wire(load, load.pages - load.zero_pages, settings)
    memory = size / load.link_rate
    prediction = Prediction(
        strategy=settings.strategy,
        blackout_milliseconds=round(cost.fixed * 1e3),
        total_milliseconds=round((_before(load, settings) + cost.fixed + memory) * 1e3),
        bytes=size + load.file_bytes,
        explanation=f"all of the memory after the resume, in {memory * 1e3:.0f} ms: until then the "
        "container waits for each page that it touches, and starts anew if the source dies",
    )
    return Forecast(settings.strategy, prediction)


def predicted(seen: Seen, strategy: MigrationStrategy) -> Prediction:
    """What a handover now would be like, as the migration's status has it.

    By PostCopy nothing waits for the memory, but the move is over only when all of it has come.
    """
    now = expected(seen)
    follows = strategy.memory_follows
    blackout = seen.cost.fixed if follows else now.blackout
    total = seen.elapsed + blackout + (memory_seconds(seen) if follows else 0.0)
    return Prediction(
        strategy=strategy.name,
        blackout_milliseconds=min(round(blackout * 1e3), 2**31 - 1),
        total_milliseconds=round(total * 1e3),
        bytes=now.bytes,
        explanation=now.explanation,
    )


def _in_rounds(load: Load, settings: MigrationSettings, cost: Cost) -> Forecast:
    limit = settings.max_downtime_milliseconds
    seen = Seen(
        strategy=settings.strategy,
        rounds=(),
        cost=cost,
        elapsed=_before(load, settings),
        deadline=settings.deadline,
        max_downtime=None if limit is None else limit / 1e3,
        post_copy=settings.post_copy is PostCopy.ALLOWED,
        limit=_limit(settings),
    )
    seen, decision = _played(seen, load, settings)
    strategy = strategies.of(settings.strategy).at_start()
    if decision.act is Act.POST_COPY:
        strategy = strategies.POST_COPY
    prediction = predicted(seen, strategy)
    bytes_in_all = prediction.bytes + load.file_bytes
    return Forecast(
        strategy.name,
        prediction.model_copy(update={"bytes": bytes_in_all}),
        decision.message,
        decision.why,
    )


def _played(seen: Seen, load: Load, settings: MigrationSettings) -> tuple[Seen, Decision]:
    while True:
        decision = decide(seen)
        if decision.act is Act.SLOW_DOWN:
            seen = replace(seen, share=decision.share)
        elif decision.act is not Act.ROUND:
            return seen, decision
        seen = _next_round(seen, load, settings)


def _next_round(seen: Seen, load: Load, settings: MigrationSettings) -> Seen:
    first = not seen.rounds
    pages = load.pages if first else seen.last.remaining_pages or 0
    zeros = load.zero_pages if first else 0
    size = _wire(load, pages - zeros, settings)
    seconds = OVERHEAD_SECONDS + size / min(load.link_rate, seen.limit or load.link_rate)
    share = 1.0 if seen.share is None else seen.share
    done = CopyRound(
        pages=pages,
        content_bytes=(pages - zeros) * PAGE_BYTES,
        bytes=size,
        seconds=seconds,
        rate=load.link_rate,
        remaining_pages=load.changed_after(seconds * share),
    )
    return replace(seen, rounds=(*seen.rounds, done), elapsed=seen.elapsed + seconds)


def _wire(load: Load, pages: int, settings: MigrationSettings) -> int:
    """What these pages take on the wire."""
    rate = min(load.link_rate, _limit(settings) or load.link_rate)
    wish = settings.compression or Compression.AUTO
    packs = wish is Compression.ZSTD or (
        wish is Compression.AUTO and rate < PACKING_BYTES_PER_SECOND
    )
    return round(pages * PAGE_BYTES * (load.packed if packs else 1.0))


def _before(load: Load, settings: MigrationSettings) -> float:
    """Seconds until the first page goes."""
    rate = min(load.link_rate, _limit(settings) or load.link_rate)
    return PREPARE_SECONDS + load.file_bytes / rate


def _limit(settings: MigrationSettings) -> float | None:
    return None if settings.max_bandwidth is None else float(bytes_of(settings.max_bandwidth))
