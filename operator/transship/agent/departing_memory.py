"""The source's end of a container's memory: from the running, then the frozen tasks to the keeper.

Reading, comparing and sending happen in one thread, outside of the agent's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from transship.runtime.page_stream import RemotePages, dial
from transship.runtime.pagemaps import LazyRange
from transship.transfer.changed_pages import Tracker
from transship.transfer.memory_copy import MemoryCopy, RoundResult, enough
from transship.transfer.page_ranges import PageRange, Process
from transship.transfer.page_sender import PageSender

T = TypeVar("T")

Processes = Callable[[], Sequence[Process]]
"""The container's processes as they are now."""


class DepartingMemory:
    """One container's memory on its way to one keeper."""

    def __init__(self, sender: PageSender, tracker: Tracker, processes: Processes) -> None:
        self._sender = sender
        self._tracker = tracker
        self._processes = processes
        self._copy = MemoryCopy(sender, tracker)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memory")

    @classmethod
    async def connect(cls, keeper: RemotePages, processes: Processes, *, tracker: Tracker) -> Self:
        """Raises Unreachable."""
        sender = PageSender(await asyncio.to_thread(dial, keeper))
        return cls(sender, tracker, processes)

    @property
    def sent_bytes(self) -> int:
        return self._sender.sent_bytes

    @property
    def rounds(self) -> tuple[RoundResult, ...]:
        return tuple(self._copy.rounds)

    async def announce(self) -> None:
        """Have the target make room, when nothing is sent before the freeze."""
        await self._run(lambda: self._copy.reserve(self._processes()))

    async def copy(self, *, downtime_seconds: float) -> None:
        """Copy in rounds while the container runs, until the rest fits the downtime."""
        while not enough(self._copy.rounds, downtime_seconds=downtime_seconds):
            await self._run(lambda: self._copy.round(self._processes()))

    async def finish(self, ranges: Sequence[LazyRange]) -> None:
        """Inside the freeze: everything that CRIU left to be restored lazily is at the target."""
        wanted = [PageRange(each.process, each.address, each.pages) for each in ranges]
        await self._run(lambda: self._copy.finish(self._processes(), wanted))

    async def close(self) -> None:
        """Break off whatever is under way."""
        self._sender.abort()
        await asyncio.to_thread(self._thread.shutdown)
        self._tracker.close()
        self._sender.close()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
