"""The source's end of a post-copy: two streams to the target's page server.

On one the target requests the pages that its processes wait for, on the other all pages that it
lacks are pushed. Both read the frozen processes. `push_memory` can be called again when they break.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from transship.agent.migration.source.memory import traffic_of
from transship.api.migration import MemoryTraffic
from transship.api.placement import Compression
from transship.common.errors import Unreachable
from transship.memory.postcopy.push import MemoryPush, Processes
from transship.memory.transfer.channel import PageServerEndpoint, connect_to_page_server
from transship.memory.transfer.sender import PageSender


class PostcopySource:
    """The post-copy of one container to one page server."""

    def __init__(
        self, page_server: PageServerEndpoint, processes: Processes, *, compression: Compression
    ) -> None:
        self._page_server = page_server
        self._push_memory = MemoryPush(processes)
        self._compression = compression
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="postcopy")
        self._senders: list[PageSender] = []
        self._open: set[PageSender] = set()
        self._answering: asyncio.Future[None] | None = None

    async def answer(self) -> None:
        """Answer the target's page requests from now on. Raises Unreachable."""
        if self._answering is None or self._answering.done():
            self._answering = await self._begin(self._push_memory.serve_page_requests)
            self._answering.add_done_callback(_ignore_outcome)

    async def push_memory(self) -> MemoryTraffic:
        """Return when the target reports that it has every page. Raises TransshipError.

        Returns the traffic of all streams, also of those that have broken.
        """
        await self.answer()
        pushing = await self._begin(self._push_memory.push)
        watched = {pushing} if self._answering is None else {pushing, self._answering}
        try:
            ended, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            if pushing not in ended and any(one.exception() for one in ended):
                raise Unreachable("pushing memory: the stream of page requests has broken")
            await pushing
        finally:
            await self._close_streams()
        return traffic_of(self._senders)

    async def close(self) -> None:
        await self._close_streams()
        await asyncio.to_thread(self._threads.shutdown)

    async def _begin(self, work: Callable[[PageSender], None]) -> asyncio.Future[None]:
        channel = await asyncio.to_thread(connect_to_page_server, self._page_server)
        sender = PageSender(channel, compression=self._compression)
        self._senders.append(sender)
        self._open.add(sender)
        return asyncio.get_running_loop().run_in_executor(self._threads, work, sender)

    async def _close_streams(self) -> None:
        senders, self._open = self._open, set()
        for sender in senders:
            sender.abort()
        if self._answering is not None:
            await asyncio.wait([self._answering])
        for sender in senders:
            sender.close()


def _ignore_outcome(answering: asyncio.Future[None]) -> None:
    """Retrieve its exception, which is of no interest: `push_memory` makes another one."""
    with contextlib.suppress(asyncio.CancelledError):
        answering.exception()
