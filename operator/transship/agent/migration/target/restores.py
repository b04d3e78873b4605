"""The copies of incoming containers: receiving, restoring, resuming them (the port Restores).

CRIU restores without the memory (lazy pages): a page server of this node receives the pages from
the source, and serves CRIU's lazy-pages daemon.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.agent.migration.target import file_locks
from transship.agent.migration.target.deps import Restored
from transship.agentapi.migrations import MemoryEndpoint
from transship.common.certificates import agent_name
from transship.common.errors import TransshipError
from transship.common.idle_timeout import cancel_if_fails
from transship.common.tls import TlsFiles
from transship.criu import restore
from transship.criu.dump import Pages
from transship.criu.restore import Restorer, RestoreRequest
from transship.linux import mounts
from transship.linux.freezer import freezer_of
from transship.memory import shared_images
from transship.memory.page_server.client import PageServerClient, PageServerDead
from transship.runtime import orders
from transship.runtime.containers import Runtime
from transship.runtime.layout import Layout


@dataclass(frozen=True)
class PageServerTls:
    """The address of this node that page servers listen at, and their PEM files."""

    address: str
    files: TlsFiles


class NodeRestores:
    """Joins the target's role to page server, CRIU and freezer of this node."""

    def __init__(self, runtime: Runtime, tls: PageServerTls) -> None:
        self._runtime = runtime
        self._tls = tls
        # those that this agent has started
        self._page_servers: dict[str, PageServerClient] = {}
        self._restorers: dict[str, Restorer] = {}
        self._settling: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def _layout(self) -> Layout:
        return self._runtime.layout

    def images(self, container: str) -> Path:
        return self._layout.images(container)

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        await self._end_restorer(container)
        await self._end_page_server(container)
        await self._remove_images(container)
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
        # not before it answers: the source would wait for its greeting as long as for a handshake
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
        done = await cancel_if_fails(work, page_server.wait_done())
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
            await page_server.wait_final(timeout_seconds=timeout_seconds)
        else:
            await page_server.wait_all_stored(timeout_seconds=timeout_seconds)

    async def lacks_memory(self, container: str) -> bool:
        page_server = PageServerClient.find(self._layout, container)
        try:
            return page_server is not None and bool((await page_server.state()).missing)
        except PageServerDead:
            return True

    async def lose_memory(self, container: str) -> None:
        if not await self.lacks_memory(container):
            return
        await self._end_lacking(container)
        async with self._settling[container]:
            await self._end_page_server(container)
            await self._remove_images(container)

    async def _end_lacking(self, container: str) -> None:
        # another instance may run by now: it has no page server
        if self.awaits_memory(container):
            logger.bind(container=container).error("missing memory is lost, the container ends")
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
                    await page_server.wait_done()
            # the kernel serves zeros for missing pages
            except PageServerDead:
                await self._end_lacking(container)
                raise
            # not when this task is cancelled: the page server goes on without the agent
            await self._end_page_server(container)
            await self._remove_images(container)

    async def destroy(self, container: str) -> None:
        await self._end_restorer(container)
        await restore.discard(self._layout, container)
        await self._end_page_server(container)
        await self._runtime.destroy(container)

    async def _end_restorer(self, container: str) -> None:
        if (restorer := self._restorers.pop(container, None)) is not None:
            await restorer.close()

    async def _end_page_server(self, container: str) -> None:
        page_server = self._page_servers.pop(container, None) or PageServerClient.leftover(
            self._layout, container
        )
        await page_server.close()

    async def _remove_images(self, container: str) -> None:
        """Images lie on a tmpfs: what is not needed any more takes memory."""
        await asyncio.to_thread(mounts.remove_tree, self.images(container))
