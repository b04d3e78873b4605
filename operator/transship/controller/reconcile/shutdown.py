"""Lifetime: how long loops go on, and how they wait. All that a loop knows of its process."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Lifetime(Protocol):
    """What ends a loop from outside, and what interrupts its waiting."""

    @property
    def over(self) -> bool:
        """The process is to end: the loop leaves everything as it is for the next process."""
        ...

    async def wait(self, wake: asyncio.Event, *, seconds: float) -> None:
        """Wait until the loop is woken, the time is up, or the process is to end."""
        ...


class ProcessLifetime:
    """The lifetime of all loops of a process: until its stop event is set."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    @property
    def over(self) -> bool:
        return self._stop.is_set()

    async def wait(self, wake: asyncio.Event, *, seconds: float) -> None:
        await wait_for_any(wake, self._stop, seconds=seconds)


async def wait_for_any(*events: asyncio.Event, seconds: float) -> None:
    """Return when one of the events is set, or when the time is up."""
    if seconds <= 0 or any(event.is_set() for event in events):
        return
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:  # not awaited: that would swallow a cancel that comes meanwhile
            wait.cancel()
