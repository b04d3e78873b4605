"""Decides whether the pages of a batch are compressed. Not thread-safe.

It measures. If batches queue up in the socket, the link is the bottleneck, and compression pays as
long as more content gets through with it than without. If they do not, the CPU is the bottleneck,
and compression would take more of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from transship.api.placement import Compression

BACKLOG_BYTES = 1 << 19
"""Half a batch: with so much unsent, the next batch would only wait in the queue."""
WORTHWHILE_SHARE = 0.95
"""The compressed size of a batch must be less than this share of its content."""
FIRST_PAUSE_BATCHES, LONGEST_PAUSE_BATCHES = 2, 64
"""After compression did not pay; doubled each time. Before the socket is full, it never pays."""
SMOOTHING = 0.3
"""The weight of the newest measurement."""


class CompressionChooser(Protocol):
    """Decides for each batch, and is told the result."""

    def compresses(self, *, backlog: int) -> bool:
        """Whether to compress the next batch. backlog: unsent bytes in the socket."""
        ...

    def note(self, *, compressed: bool, content: int, wire: int, seconds: float) -> None:
        """Note the result of a batch: its size, the bytes sent for it, and the time it took."""
        ...


@dataclass
class FixedChoice:
    """The same choice for every batch."""

    wanted: bool

    def compresses(self, *, backlog: int) -> bool:
        return self.wanted

    def note(self, *, compressed: bool, content: int, wire: int, seconds: float) -> None:
        pass


class MeasuredChoice:
    """Compresses while a byte of content takes less time with compression than without.

    It averages times, not rates: the mean of the rates of an empty and of a full socket says
    nothing.
    """

    def __init__(self) -> None:
        self._plain: float | None = None
        self._packed: float | None = None
        self._backlog = False
        self._pause = 0
        self._next_pause = FIRST_PAUSE_BATCHES

    def compresses(self, *, backlog: int) -> bool:
        self._backlog = backlog >= BACKLOG_BYTES
        if self._pause:
            self._pause -= 1
            return False
        # the time without compression has to be measured first
        return self._backlog and self._plain is not None

    def note(self, *, compressed: bool, content: int, wire: int, seconds: float) -> None:
        seconds_per_byte = seconds / content
        if not compressed:
            if self._backlog:
                self._plain = _smoothed(self._plain, seconds_per_byte)
            return
        self._packed = _smoothed(self._packed, seconds_per_byte)
        if wire > WORTHWHILE_SHARE * content or self._packed > (self._plain or 0.0):
            self._packed, self._pause = None, self._next_pause
            self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE_BATCHES)
        else:
            self._next_pause = FIRST_PAUSE_BATCHES


def _smoothed(old: float | None, new: float) -> float:
    return new if old is None else old + SMOOTHING * (new - old)


def chooser_for(wish: Compression | None) -> CompressionChooser:
    match wish or Compression.AUTO:
        case Compression.AUTO:
            return MeasuredChoice()
        case Compression.NONE:
            return FixedChoice(wanted=False)
        case Compression.ZSTD:
            return FixedChoice(wanted=True)
