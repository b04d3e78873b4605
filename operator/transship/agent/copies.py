"""The copies of containers as processes, for both roles of a migration (the port Copies).

CRIU dumps and restores without the memory (lazy pages): that goes from the source's tasks straight
into a keeper on the target, which CRIU's daemon there is served from.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.agent import deadlines, relocking
from transship.agent.departing_memory import DepartingMemory
from transship.agent.draining import Draining
from transship.agent.keepers import KeeperDead, PageKeeper
from transship.agent.ports import Dumped, Restored, StreamWish
from transship.api.migration import MemoryTraffic
from transship.api.placement import Compression, Strategy
from transship.common.certificates import agent_name
from transship.common.errors import TransshipError
from transship.common.patience import unless_failed
from transship.common.tls import TlsFiles
from transship.protocol.migrations import MemoryEndpoint
from transship.runtime import mounts, orders, pagemaps, processes, restore
from transship.runtime.checkpoint import Dumper, DumpRequest, Pages
from transship.runtime.containers import Runtime
from transship.runtime.freezer import freezer_of
from transship.runtime.layout import Layout
from transship.runtime.lazy_memory import require_whole, still_arriving
from transship.runtime.restore import Restorer, RestoreRequest
from transship.transfer import shared_images
from transship.transfer.changed_pages import Tracker, Untracked
from transship.transfer.mappings import mapped_files
from transship.transfer.page_channel import RemotePages
from transship.transfer.page_ranges import Process
from transship.transfer.rounds import CopyRound
from transship.transfer.write_tracker import best_tracker

REMAPS = "remap-fpath.img"
"""There when files that are open have lost a name: CRIU may have given them one."""
SETTLE_SECONDS = 60.0


@dataclass(frozen=True)
class PageTls:
    """The node's address for keepers, its PEM files for them, TLS for connecting to others'."""

    address: str
    files: TlsFiles
    client: ssl.SSLContext


@dataclass(frozen=True)
class Departing:
    """What stands ready on the source before the freeze."""

    dumper: Dumper
    memory: DepartingMemory


class NodeCopies:
    """Joins both roles to freezer, dump, page stream and restore of this node."""

    def __init__(self, runtime: Runtime, tls: PageTls) -> None:
        self._runtime = runtime
        self._tls = tls
        self._departing: dict[str, Departing] = {}
        self._draining: dict[str, Draining] = {}
        self._keepers: dict[str, PageKeeper] = {}  # that this agent has started
        self._restorers: dict[str, Restorer] = {}
        self._settling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def _layout(self) -> Layout:
        return self._runtime.layout

    def images(self, container: str) -> Path:
        return self._layout.images(container)

    def mapped(self, container: str) -> frozenset[str]:
        return mapped_files(freezer_of(self._layout, container).processes())

    # The source.

    async def ready(
        self, container: str, *, to: MemoryEndpoint, node: str, wish: StreamWish
    ) -> None:
        await self._whole(container)
        await self._clear_images(container)
        keeper = RemotePages(to.address, to.port, node=node, context=self._tls.client)
        in_rounds = wish.strategy in {Strategy.AUTO, Strategy.PRE_COPY}
        memory = await DepartingMemory.connect(
            keeper,
            lambda: self.processes(container),
            tracker=self.tracker(container) if in_rounds else Untracked(),
            wish=wish,
        )
        limit = deadlines.DUMP_SECONDS
        request = DumpRequest(container, self._layout, Pages.LAZY, timeout_seconds=limit)
        try:
            self._departing[container] = Departing(await Dumper.ready(request), memory)
            self._prepare_draining(container, to=to, node=node, compression=wish.compression)
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
        await asyncio.to_thread(require_whole, freezer_of(self._layout, container).processes())

    async def announce_memory(self, container: str) -> int:
        return await self._ready(container).memory.announce()

    async def copy_shared(self, container: str) -> None:
        await self._ready(container).memory.copy_shared()

    async def copy_round(self, container: str) -> CopyRound:
        return await self._ready(container).memory.round()

    async def left_pages(self, container: str) -> int | None:
        return await self._ready(container).memory.left_pages()

    async def unready(self, container: str) -> None:
        departing = self._departing.pop(container, None)
        if departing is not None:
            await departing.memory.close()
            await departing.dumper.close()
        draining = self._draining.pop(container, None)
        if draining is not None:
            await draining.close()

    async def freeze(self, container: str) -> None:
        departing = self._departing.get(container)
        await (departing.dumper if departing else freezer_of(self._layout, container)).freeze()

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
        await self._draining[container].answer()
        return memory.traffic

    async def drain(self, container: str, *, to: MemoryEndpoint, node: str) -> MemoryTraffic:
        if container not in self._draining:
            self._prepare_draining(container, to=to, node=node, compression=Compression.AUTO)
        return await self._draining[container].drain()

    def _prepare_draining(
        self, container: str, *, to: MemoryEndpoint, node: str, compression: Compression
    ) -> None:
        self._draining[container] = Draining(
            RemotePages(to.address, to.port, node=node, context=self._tls.client),
            lambda: self.processes(container),
            compression=compression,
        )

    async def thaw(self, container: str) -> None:
        freezer_of(self._layout, container).thaw()
        await self._clear_images(container)

    def tracker(self, container: str) -> Tracker:
        return best_tracker(freezer_of(self._layout, container).paused)

    def processes(self, container: str) -> tuple[Process, ...]:
        """The container's processes as they are now."""
        found = processes.named(freezer_of(self._layout, container).processes())
        return tuple(Process(each.inside, each.outside) for each in found)

    def _ready(self, container: str) -> Departing:
        if container not in self._departing:
            raise TransshipError(f"dumping {container}: nothing was made ready for it")
        return self._departing[container]

    # The target.

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        await self._end_restorer(container)
        await self._end_keeper(container)
        await self._clear_images(container)
        self._keepers[container], port = await PageKeeper.start(
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
        await self._keepers[container].state()
        return MemoryEndpoint(address=self._tls.address, port=port)

    async def restore(self, container: str, *, timeout_seconds: float) -> Restored:
        restorer = self._restorers.get(container)
        if restorer is None:
            raise TransshipError(f"restoring {container}: nothing was received for it")
        keeper = self._keepers.get(container)
        if keeper is None:
            raise TransshipError(f"restoring {container}: nothing receives its memory")
        if shared_images.waiting(self.images(container)):
            await keeper.compose(timeout_seconds=timeout_seconds)
        work = restorer.restore(timeout_seconds=timeout_seconds, progress=keeper.received)
        done = await unless_failed(work, keeper.ended())
        relocking.require_keepable(freezer_of(self._layout, container), self.images(container))
        return Restored(pid=done.pid)

    async def received(
        self, container: str, *, follows: bool = False, timeout_seconds: float
    ) -> None:
        keeper = self._keepers.get(container)
        if keeper is None:
            raise TransshipError(f"restoring {container}: nothing was received for it")
        if follows:
            await keeper.final(timeout_seconds=timeout_seconds)
        else:
            await keeper.all_stored(timeout_seconds=timeout_seconds)

    async def lacks_memory(self, container: str) -> bool:
        keeper = PageKeeper.find(self._layout, container)
        try:
            return keeper is not None and bool((await keeper.state()).lacking)
        except KeeperDead:
            return True

    async def lose_memory(self, container: str) -> None:
        if not await self.lacks_memory(container):
            return
        await self._end_lacking(container)
        async with self._settling[container]:
            await self._end_keeper(container)
            await self._clear_images(container)

    async def _end_lacking(self, container: str) -> None:
        if self.awaits_memory(container):  # else another instance follows: it has no keeper
            logger.bind(container=container).error("the rest of its memory is lost, it ends")
            await self._runtime.kill(container)

    def awaits_memory(self, container: str) -> bool:
        return PageKeeper.find(self._layout, container) is not None

    async def resume(self, container: str) -> None:
        freezer = freezer_of(self._layout, container)
        await asyncio.to_thread(relocking.resume, freezer, self.images(container))

    async def settle(self, container: str) -> None:
        async with self._settling[container]:
            if (restorer := self._restorers.pop(container, None)) is not None:
                await restorer.settle()
            keeper = PageKeeper.find(self._layout, container)
            if keeper is None and container not in self._keepers:
                return
            try:
                if keeper is not None:
                    await keeper.ended()
            except KeeperDead:  # the kernel gives zeros for what is missing
                await self._end_lacking(container)
                raise
            # not when this task is cancelled, with the agent: the keeper goes on without it
            await self._end_keeper(container)
            await self._clear_images(container)

    # Both.

    async def destroy(self, container: str) -> None:
        await self.unready(container)
        await self._end_restorer(container)
        await restore.discard(self._layout, container)
        await self._end_keeper(container)
        await self._runtime.destroy(container)

    async def _end_restorer(self, container: str) -> None:
        if (restorer := self._restorers.pop(container, None)) is not None:
            await restorer.close()

    async def _end_keeper(self, container: str) -> None:
        keeper = self._keepers.pop(container, None) or PageKeeper.left(self._layout, container)
        await keeper.close()

    async def _clear_images(self, container: str) -> None:
        """They are on a tmpfs: what is not needed any more is memory."""
        await asyncio.to_thread(mounts.remove_tree, self.images(container))
