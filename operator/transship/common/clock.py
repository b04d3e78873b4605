"""Time, as a value that tests can replace."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Return the wall clock in UTC: for people and records, not for measurements."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back: for measurements."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
