"""A bandwidth limit that several streams of one move share, whatever thread they are in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.02
"""How far the streams may run ahead of the rate."""


class BandwidthLimit:
    """A token bucket: says how long to wait before the next bytes.

    Bytes per second; None for as fast as it goes. Every byte counts from the moment that it is
    asked for, so that streams which ask at once wait one after the other.
    """

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._due = clock()
        self._lock = threading.Lock()

    @property
    def rate(self) -> float | None:
        return self._rate

    def lift(self) -> None:
        """No limit any more: inside the freeze every byte that waits is blackout."""
        self._rate = None

    def delay(self, size: int) -> float:
        """Count these bytes in; returns the seconds to wait before sending them."""
        with self._lock:
            if self._rate is None:
                return 0.0
            now = self._clock()
            wait = max(0.0, self._due - now - BURST_SECONDS)
            self._due = max(self._due, now) + size / self._rate
            return wait
