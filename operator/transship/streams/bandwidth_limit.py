"""A bandwidth limit that all streams of one move share. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.02
"""How far the streams may be ahead of the rate."""


class BandwidthLimit:
    """A token bucket: it says how long to wait before sending.

    rate: bytes per second, None without a limit. Bytes count from the moment of the call, so that
    streams which call at the same time wait one after the other.
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
        """Remove the limit: inside the freeze, every byte that waits prolongs the blackout."""
        self._rate = None

    def delay(self, size: int) -> float:
        """Count these bytes. Returns the seconds to wait before sending them."""
        with self._lock:
            if self._rate is None:
                return 0.0
            now = self._clock()
            wait = max(0.0, self._due - now - BURST_SECONDS)
            self._due = max(self._due, now) + size / self._rate
            return wait
