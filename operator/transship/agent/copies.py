"""The copies of containers as processes, for both roles of a migration (the port Copies)."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

from transship.agent.ports import Dumped, Restored
from transship.common.certificates import agent_name
from transship.common.errors import TransshipError
from transship.protocol.migrations import MemoryEndpoint
from transship.runtime import mounts, orders, restore
from transship.runtime.checkpoint import Dumper, DumpRequest
from transship.runtime.containers import Runtime
from transship.runtime.freezer import freezer_of
from transship.runtime.layout import Layout
from transship.runtime.page_server import PageServer
from transship.runtime.page_stream import RemotePages
from transship.transfer.mappings import mapped_files, resident_bytes

DUMP_SECONDS = 10.0
DUMP_SECONDS_PER_GIB = 60.0  # a link of 150 Mbit/s; the container is frozen all the time


@dataclass(frozen=True)
class PageTls:
    """The node's address for page servers, and TLS of both directions."""

    address: str
    server: ssl.SSLContext
    client: ssl.SSLContext


class NodeCopies:
    """Joins both roles to freezer, dump, page server and restore of this node."""

    def __init__(self, runtime: Runtime, tls: PageTls) -> None:
        self._runtime = runtime
        self._tls = tls
        self._dumpers: dict[str, Dumper] = {}
        self._servers: dict[str, PageServer] = {}

    @property
    def _layout(self) -> Layout:
        return self._runtime.layout

    def images(self, container: str) -> Path:
        return self._layout.images(container)

    def mapped(self, container: str) -> frozenset[str]:
        return mapped_files(freezer_of(self._layout, container).processes())

    # The source.

    async def ready(self, container: str, *, to: MemoryEndpoint, node: str) -> None:
        await self._clear_images(container)
        pages = RemotePages(to.address, to.port, node=node, context=self._tls.client)
        memory = resident_bytes(freezer_of(self._layout, container).processes())
        timeout = DUMP_SECONDS + DUMP_SECONDS_PER_GIB * memory / 2**30
        request = DumpRequest(container, self._layout, pages, timeout_seconds=timeout)
        self._dumpers[container] = await Dumper.ready(request)

    async def unready(self, container: str) -> None:
        dumper = self._dumpers.pop(container, None)
        if dumper is not None:
            await dumper.close()

    async def freeze(self, container: str) -> None:
        dumper = self._dumpers.get(container)
        await (freezer_of(self._layout, container) if dumper is None else dumper).freeze()

    async def dump(self, container: str) -> Dumped:
        if container not in self._dumpers:
            raise TransshipError(f"dumping {container}: nothing was made ready for it")
        done = await self._dumpers[container].dump()
        return Dumped(images=done.images, asleep=done.stopped, bytes=done.page_bytes)

    async def thaw(self, container: str) -> None:
        freezer_of(self._layout, container).thaw()
        await self._clear_images(container)

    # The target.

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        await self._end_server(container)
        await self._clear_images(container)
        server = await PageServer.start(
            images=self.images(container),
            address=self._tls.address,
            context=self._tls.server,
            peer=agent_name(node),
        )
        self._servers[container] = server
        return MemoryEndpoint(address=self._tls.address, port=server.port)

    async def received(self, container: str, *, timeout_seconds: float) -> None:
        if container not in self._servers:
            raise TransshipError(f"receiving pages of {container}: no page server was started")
        await self._servers.pop(container).finish(timeout_seconds=timeout_seconds)

    async def restore(self, container: str, *, timeout_seconds: float) -> Restored:
        prepared = orders.load(self._layout, container)
        done = await restore.restore_held(
            restore.RestoreRequest(
                container, self._layout, prepared.console, timeout_seconds=timeout_seconds
            )
        )
        return Restored(pid=done.pid)

    async def resume(self, container: str) -> None:
        restore.resume(self._layout, container)

    async def settle(self, container: str) -> None:
        await self._clear_images(container)

    # Both.

    async def destroy(self, container: str) -> None:
        await self.unready(container)
        await self._end_server(container)
        await restore.discard(self._layout, container)
        await self._runtime.destroy(container)

    async def _end_server(self, container: str) -> None:
        server = self._servers.pop(container, None)
        if server is not None:
            await server.close()

    async def _clear_images(self, container: str) -> None:
        """They are on a tmpfs: what is not needed any more is memory."""
        await asyncio.to_thread(mounts.remove_tree, self.images(container))
