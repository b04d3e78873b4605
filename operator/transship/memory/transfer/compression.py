"""Whether and how the pages of a batch are compressed.

By measuring: where batches pile up in the socket the link is the limit, and compressing pays as
long as more content gets through with it than without. Where nothing piles up the processor is the
limit, and has no time for it. Not for two threads at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from transship.api.placement import Compression

BACKLOG_BYTES = 1 << 19
"""Half a batch: with so much unsent the next one would only stand in the queue."""
WORTH_IT = 0.95
"""What compression leaves of a batch has to be less than this share."""
FIRST_PAUSE_BATCHES, LONGEST_PAUSE_BATCHES = 2, 64
"""After it did not pay; doubled each time: until the socket is full, nothing seems to pay."""
SMOOTHING = 0.3


class CompressionChooser(Protocol):
    """Decides about one batch after the other, and hears what came of it."""

    def compresses(self, *, backlog: int) -> bool:
        """backlog: bytes that have been sent before and still wait in the socket."""
        ...

    def note(self, *, compressed: bool, content: int, wire: int, seconds: float) -> None:
        """What a batch was like: its size, what was sent for it, and how long that took."""
        ...


@dataclass
class FixedChoice:
    """The same for every batch."""

    wanted: bool

    def compresses(self, *, backlog: int) -> bool:
        return self.wanted

    def note(self, *, compressed: bool, content: int, wire: int, seconds: float) -> None:
        pass


class MeasuredChoice:
    """Compresses while it pays: by the seconds that a byte of content takes, with and without.

    Not by rates: of an empty socket's and a full one's, the mean rate says nothing.
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
        # how fast it goes without has to be known first
        return self._backlog and self._plain is not None

    def note(self, *, compressed: bool, content: int, wire: int, seconds: float) -> None:
        each = seconds / content
        if not compressed:
            if self._backlog:
                self._plain = _smoothed(self._plain, each)
            return
        self._packed = _smoothed(self._packed, each)
        if wire > WORTH_IT * content or self._packed > (self._plain or 0.0):
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
