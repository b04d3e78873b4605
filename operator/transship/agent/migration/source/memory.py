"""The source's end of a container's memory: from its tasks, running and frozen, to a page server.

Reading, comparing and sending run in one thread, outside of the agent's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

from transship.agent.migration.source.deps import StreamOptions
from transship.api.migration import MemoryTraffic
from transship.criu.images.pagemap import LazyRange, SharedImage
from transship.linux.pages import PAGE_BYTES, PageRange
from transship.linux.processes import Process
from transship.memory.copy import MemoryCopy
from transship.memory.copy_progress import CopyRound
from transship.memory.shared_images import Image
from transship.memory.shared_memory import SharedMemory
from transship.memory.tracking.tracker import Tracker
from transship.memory.transfer.channel import PageServerEndpoint, connect_to_page_server
from transship.memory.transfer.sender import PageSender

T = TypeVar("T")

Processes = Callable[[], Sequence[Process]]
"""Returns the container's processes as they are now."""


class OutgoingMemory:
    """One container's memory on its way to one page server."""

    def __init__(self, sender: PageSender, tracker: Tracker, processes: Processes) -> None:
        self._sender = sender
        self._tracker = tracker
        self._processes = processes
        self._copy = MemoryCopy(sender, tracker)
        self._shared = SharedMemory(sender)
        self._ahead: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memory")

    @classmethod
    async def connect(
        cls,
        page_server: PageServerEndpoint,
        processes: Processes,
        *,
        tracker: Tracker,
        options: StreamOptions,
    ) -> Self:
        """Connect to the page server. Raises Unreachable."""
        channel = await asyncio.to_thread(connect_to_page_server, page_server)
        sender = PageSender(channel, bandwidth=options.bandwidth, compression=options.compression)
        return cls(sender, tracker, processes)

    @property
    def traffic(self) -> MemoryTraffic:
        return traffic_of([self._sender])

    async def reserve(self) -> int:
        """Have the target make room when nothing is sent before the freeze. Returns the pages."""
        return await self._run(lambda: self._copy.reserve(self._processes()))

    async def copy_shared(self) -> None:
        """Copy what has changed of the shared memory; all of it at first."""
        await self._run(lambda: self._shared.copy(self._processes()))

    async def reduce(self, images: Sequence[SharedImage]) -> None:
        """Inside the freeze: cut from the dump's images what copy_shared has sent, if unchanged.

        Runs beside the sending of pages, and sends nothing itself.
        """
        if images:
            shared = [Image(image.path, image.runs) for image in images]
            await asyncio.to_thread(self._shared.reduce, shared)

    async def round(self) -> CopyRound:
        """Copy what has changed of the running container's memory; all of it at first."""
        return await self._run(lambda: self._copy.copy_round(self._processes()))

    async def remaining_pages(self) -> int | None:
        """How many pages have changed since the last round; None where that is not known."""
        return await self._run(lambda: self._copy.remaining_pages(self._processes()))

    def begin_ahead(self) -> None:
        """Inside the freeze, beside the dump: begin to send what the dump does not touch."""
        self._ahead = self._submit(lambda: self._copy.copy_during_dump(self._processes()))

    async def finish(self, ranges: Sequence[LazyRange]) -> None:
        """Inside the freeze: send all pages that CRIU left to be restored lazily."""
        if self._ahead is not None:
            # shielded: close() waits for it when the move is aborted
            await asyncio.shield(self._ahead)
        wanted = [PageRange(one.process, one.address, one.pages) for one in ranges]
        await self._run(lambda: self._copy.copy_rest(self._processes(), wanted))

    async def promise(self, ranges: Sequence[LazyRange]) -> None:
        """Inside the freeze, instead of finish: tell the target which pages follow later."""
        wanted = [PageRange(one.process, one.address, one.pages) for one in ranges]
        await self._run(lambda: self._copy.prepare_postcopy(self._processes(), wanted))

    async def close(self) -> None:
        """Cancel what is under way and end the stream."""
        self._sender.abort()
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
            # retrieved, for a move that was aborted before finish()
            self._ahead.exception()
        await asyncio.to_thread(self._thread.shutdown)
        self._tracker.close()
        self._sender.close()

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._submit(work)

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def traffic_of(senders: Iterable[PageSender]) -> MemoryTraffic:
    """The traffic of all these streams."""
    senders = tuple(senders)
    content = sum(sender.content_bytes for sender in senders)
    body = sum(sender.body_bytes for sender in senders)
    return MemoryTraffic(
        page_bytes=content,
        zero_page_bytes=sum(sender.zero_pages for sender in senders) * PAGE_BYTES,
        wire_bytes=sum(sender.sent_bytes for sender in senders),
        compressed_percent=round(100 * body / content) if content else None,
    )
