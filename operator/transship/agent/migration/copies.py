"""The copies of containers as processes, for both roles of a migration (the port Copies).

CRIU dumps and restores without the memory (lazy pages): that goes from the source's tasks straight
into a page server on the target, which CRIU's daemon there is served from.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.agent.migration import timeouts
from transship.agent.migration.ports import Dumped, Restored, StreamWish
from transship.agent.migration.source.memory import OutgoingMemory
from transship.agent.migration.source.postcopy import PostcopySource
from transship.agent.migration.target import file_locks
from transship.agentapi.migrations import MemoryEndpoint
from transship.api.migration import MemoryTraffic
from transship.api.placement import Compression
from transship.common.certificates import agent_name
from transship.common.errors import TransshipError
from transship.common.idle_timeout import unless_failed
from transship.common.tls import TlsFiles
from transship.criu import restore
from transship.criu.dump import Dumper, DumpRequest, Pages
from transship.criu.failures import require_no_missing_pages, still_arriving
from transship.criu.images import pagemap as pagemaps
from transship.criu.restore import Restorer, RestoreRequest
from transship.linux import mounts, processes
from transship.linux.freezer import freezer_of
from transship.linux.mappings import mapped_files
from transship.linux.pages import Process
from transship.memory import shared_images
from transship.memory.page_server.client import PageServerClient, PageServerDead
from transship.memory.rounds import CopyRound
from transship.memory.tracking.digest_tracker import Tracker, Untracked
from transship.memory.tracking.write_tracker import best_tracker
from transship.memory.transfer.channel import RemotePages
from transship.runtime import orders
from transship.runtime.containers import Runtime
from transship.runtime.layout import Layout

REMAPS = "remap-fpath.img"
"""There when files that are open have lost a name: CRIU may have given them one."""
SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class PageTls:
    """The address that page servers listen on, their PEM files, and TLS to connect to others'."""

    address: str
    files: TlsFiles
    client: ssl.SSLContext


@dataclass(frozen=True)
class ReadyToDump:
    """What stands ready on the source before the freeze."""

    dumper: Dumper
    memory: OutgoingMemory


class NodeCopies:
    """Joins both roles to freezer, dump, page stream and restore of this node."""

    def __init__(self, runtime: Runtime, tls: PageTls) -> None:
        self._runtime = runtime
        self._tls = tls
        self._ready_to_dump: dict[str, ReadyToDump] = {}
        self._postcopy: dict[str, PostcopySource] = {}
        self._page_servers: dict[str, PageServerClient] = {}  # that this agent has started
        self._restorers: dict[str, Restorer] = {}
        self._settling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def _layout(self) -> Layout:
        return self._runtime.layout

    def images(self, container: str) -> Path:
        return self._layout.images(container)

    def mapped(self, container: str) -> frozenset[str]:
        return mapped_files(freezer_of(self._layout.cgroup(container)).processes())

    # The source.

    async def ready(
        self, container: str, *, to: MemoryEndpoint, node: str, wish: StreamWish
    ) -> None:
        await self._whole(container)
        await self._clear_images(container)
        page_server = RemotePages(to.address, to.port, node=node, context=self._tls.client)
        memory = await OutgoingMemory.connect(
            page_server,
            lambda: self.processes(container),
            tracker=self._tracker_for(container, wish),
            wish=wish,
        )
        limit = timeouts.DUMP_SECONDS
        request = DumpRequest(container, self._layout, Pages.LAZY, timeout_seconds=limit)
        try:
            self._ready_to_dump[container] = ReadyToDump(await Dumper.ready(request), memory)
            self._prepare_postcopy(container, to=to, node=node, compression=wish.compression)
        except BaseException:
            await memory.close()
            raise

    async def _whole(self, container: str) -> None:
        """Wait for the end of the move before: a page that is still to come cannot be dumped."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self.settle(container)
        except TimeoutError as e:
            raise still_arriving() from e
        await asyncio.to_thread(
            require_no_missing_pages, freezer_of(self._layout.cgroup(container)).processes()
        )

    async def announce_memory(self, container: str) -> int:
        return await self._ready(container).memory.announce()

    async def copy_shared(self, container: str) -> None:
        await self._ready(container).memory.copy_shared()

    async def copy_round(self, container: str) -> CopyRound:
        return await self._ready(container).memory.round()

    async def left_pages(self, container: str) -> int | None:
        return await self._ready(container).memory.left_pages()

    async def unready(self, container: str) -> None:
        departing = self._ready_to_dump.pop(container, None)
        if departing is not None:
            await departing.memory.close()
            await departing.dumper.close()
        postcopy = self._postcopy.pop(container, None)
        if postcopy is not None:
            await postcopy.close()

    async def freeze(self, container: str) -> None:
        departing = self._ready_to_dump.get(container)
        await (
            departing.dumper if departing else freezer_of(self._layout.cgroup(container))
        ).freeze()

    async def dump(self, container: str) -> Dumped:
        departing = self._ready(container)
        done = await departing.dumper.dump()
        await departing.memory.reduce(pagemaps.shared(done.images))
        return Dumped(
            images=done.images,
            criu_seconds=done.criu_seconds,
            image_bytes=done.image_bytes,
            made_files=(done.images / REMAPS).exists(),
        )

    def sent_bytes(self, container: str) -> int:
        return self._ready(container).memory.traffic.wire_bytes

    def begin_memory(self, container: str) -> None:
        self._ready(container).memory.begin_ahead()

    async def send_memory(self, container: str) -> MemoryTraffic:
        memory = self._ready(container).memory
        await memory.finish(pagemaps.read(self.images(container)))
        return memory.traffic

    async def promise_memory(self, container: str) -> MemoryTraffic:
        memory = self._ready(container).memory
        await memory.promise(pagemaps.read(self.images(container)))
        await self._postcopy[container].answer()
        return memory.traffic

    async def push_memory(self, container: str, *, to: MemoryEndpoint, node: str) -> MemoryTraffic:
        if container not in self._postcopy:
            self._prepare_postcopy(container, to=to, node=node, compression=Compression.AUTO)
        return await self._postcopy[container].push_memory()

    def _prepare_postcopy(
        self, container: str, *, to: MemoryEndpoint, node: str, compression: Compression
    ) -> None:
        self._postcopy[container] = PostcopySource(
            RemotePages(to.address, to.port, node=node, context=self._tls.client),
            lambda: self.processes(container),
            compression=compression,
        )

    async def thaw(self, container: str) -> None:
        freezer_of(self._layout.cgroup(container)).thaw()
        await self._clear_images(container)

    def _tracker_for(self, container: str, wish: StreamWish) -> Tracker:
        return self.tracker(container) if wish.strategy.copies_memory_in_rounds else Untracked()

    def tracker(self, container: str) -> Tracker:
        return best_tracker(freezer_of(self._layout.cgroup(container)).paused)

    def processes(self, container: str) -> tuple[Process, ...]:
        """The container's processes as they are now."""
        found = processes.named(freezer_of(self._layout.cgroup(container)).processes())
        return tuple(Process(each.inside, each.outside) for each in found)

    def _ready(self, container: str) -> ReadyToDump:
        if container not in self._ready_to_dump:
            raise TransshipError(f"dumping {container}: nothing was made ready for it")
        return self._ready_to_dump[container]

    # The target.

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        await self._end_restorer(container)
        await self._end_page_server(container)
        await self._clear_images(container)
        self._page_servers[container], port = await PageServerClient.start(
            self._layout,
            container,
            address=self._tls.address,
            files=self._tls.files,
            peer=agent_name(node),
        )
        console = orders.load(self._layout, container).console
        self._restorers[container] = await Restorer.ready(
            RestoreRequest(container, self._layout, console, pages=Pages.LAZY)
        )
        # the source would wait for its greeting with a handshake's patience
        await self._page_servers[container].state()
        return MemoryEndpoint(address=self._tls.address, port=port)

    async def restore(self, container: str, *, timeout_seconds: float) -> Restored:
        restorer = self._restorers.get(container)
        if restorer is None:
            raise TransshipError(f"restoring {container}: nothing was received for it")
        page_server = self._page_servers.get(container)
        if page_server is None:
            raise TransshipError(f"restoring {container}: nothing receives its memory")
        if shared_images.waiting(self.images(container)):
            await page_server.compose(timeout_seconds=timeout_seconds)
        work = restorer.restore(timeout_seconds=timeout_seconds, progress=page_server.received)
        done = await unless_failed(work, page_server.ended())
        file_locks.require_keepable(
            freezer_of(self._layout.cgroup(container)), self.images(container)
        )
        return Restored(pid=done.pid)

    async def received(
        self, container: str, *, follows: bool = False, timeout_seconds: float
    ) -> None:
        page_server = self._page_servers.get(container)
        if page_server is None:
            raise TransshipError(f"restoring {container}: nothing was received for it")
        if follows:
            await page_server.final(timeout_seconds=timeout_seconds)
        else:
            await page_server.all_stored(timeout_seconds=timeout_seconds)

    async def lacks_memory(self, container: str) -> bool:
        page_server = PageServerClient.find(self._layout, container)
        try:
            return page_server is not None and bool((await page_server.state()).lacking)
        except PageServerDead:
            return True

    async def lose_memory(self, container: str) -> None:
        if not await self.lacks_memory(container):
            return
        await self._end_lacking(container)
        async with self._settling[container]:
            await self._end_page_server(container)
            await self._clear_images(container)

    async def _end_lacking(self, container: str) -> None:
        if self.awaits_memory(container):  # else another instance follows: it has no page server
            logger.bind(container=container).error("the rest of its memory is lost, it ends")
            await self._runtime.kill(container)

    def awaits_memory(self, container: str) -> bool:
        return PageServerClient.find(self._layout, container) is not None

    async def resume(self, container: str) -> None:
        freezer = freezer_of(self._layout.cgroup(container))
        await asyncio.to_thread(file_locks.resume, freezer, self.images(container))

    async def settle(self, container: str) -> None:
        async with self._settling[container]:
            if (restorer := self._restorers.pop(container, None)) is not None:
                await restorer.settle()
            page_server = PageServerClient.find(self._layout, container)
            if page_server is None and container not in self._page_servers:
                return
            try:
                if page_server is not None:
                    await page_server.ended()
            except PageServerDead:  # the kernel gives zeros for what is missing
                await self._end_lacking(container)
                raise
            # not when this task is cancelled, with the agent: the page server goes on without it
            await self._end_page_server(container)
            await self._clear_images(container)

    # Both.

    async def destroy(self, container: str) -> None:
        await self.unready(container)
        await self._end_restorer(container)
        await restore.discard(self._layout, container)
        await self._end_page_server(container)
        await self._runtime.destroy(container)

    async def _end_restorer(self, container: str) -> None:
        if (restorer := self._restorers.pop(container, None)) is not None:
            await restorer.close()

    async def _end_page_server(self, container: str) -> None:
        page_server = self._page_servers.pop(container, None) or PageServerClient.left(
            self._layout, container
        )
        await page_server.close()

    async def _clear_images(self, container: str) -> None:
        """They are on a tmpfs: what is not needed any more is memory."""
        await asyncio.to_thread(mounts.remove_tree, self.images(container))
