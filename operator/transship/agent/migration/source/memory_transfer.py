"""The memory of outgoing containers on its way to the target (the port MemoryTransfer).

Pages go from the container's processes straight to a page server on the target, from which CRIU's
lazy-pages daemon is served there.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from transship.agent.migration.source.deps import StreamOptions
from transship.agent.migration.source.memory import OutgoingMemory
from transship.agent.migration.source.postcopy import PostcopySource
from transship.agentapi.migrations import MemoryEndpoint
from transship.api.migration import MemoryTraffic
from transship.api.placement import Compression
from transship.common.errors import TransshipError
from transship.criu.images import pagemap as pagemaps
from transship.criu.images.pagemap import SharedImage
from transship.linux import processes
from transship.linux.freezer import freezer_of
from transship.linux.processes import Process
from transship.memory.copy_progress import CopyRound
from transship.memory.tracking.tracker import Tracker, Untracked
from transship.memory.tracking.write_tracker import best_tracker
from transship.memory.transfer.channel import PageServerEndpoint
from transship.runtime.layout import Layout


class NodeMemoryTransfer:
    """Joins the source's role to the page streams of this node."""

    def __init__(self, layout: Layout, client_tls: ssl.SSLContext) -> None:
        self._layout = layout
        self._client_tls = client_tls
        self._outgoing: dict[str, OutgoingMemory] = {}
        self._postcopy: dict[str, PostcopySource] = {}

    async def connect(
        self, container: str, *, to: MemoryEndpoint, node: str, options: StreamOptions
    ) -> None:
        """Connect to the target's page server. Raises Unreachable."""
        in_rounds = options.strategy.copies_memory_in_rounds
        self._outgoing[container] = await OutgoingMemory.connect(
            self._page_server(to, node=node),
            lambda: self.processes(container),
            tracker=self.tracker(container) if in_rounds else Untracked(),
            options=options,
        )
        self._prepare_postcopy(container, to=to, node=node, compression=options.compression)

    async def close(self, container: str) -> None:
        """End all streams of the container; harmless where it has none."""
        memory = self._outgoing.pop(container, None)
        if memory is not None:
            await memory.close()
        postcopy = self._postcopy.pop(container, None)
        if postcopy is not None:
            await postcopy.close()

    async def reserve(self, container: str) -> int:
        return await self._memory(container).reserve()

    async def copy_shared(self, container: str) -> None:
        await self._memory(container).copy_shared()

    async def copy_round(self, container: str) -> CopyRound:
        return await self._memory(container).round()

    async def remaining_pages(self, container: str) -> int | None:
        return await self._memory(container).remaining_pages()

    async def reduce(self, container: str, images: Sequence[SharedImage]) -> None:
        """Leave out of a dump's images what the target has of the shared memory already."""
        await self._memory(container).reduce(images)

    def sent_bytes(self, container: str) -> int:
        return self._memory(container).traffic.wire_bytes

    def begin_sending(self, container: str) -> None:
        self._memory(container).begin_ahead()

    async def send(self, container: str) -> MemoryTraffic:
        memory = self._memory(container)
        await memory.finish(pagemaps.read(self._layout.images(container)))
        return memory.traffic

    async def begin_postcopy(self, container: str) -> MemoryTraffic:
        memory = self._memory(container)
        await memory.promise(pagemaps.read(self._layout.images(container)))
        await self._postcopy[container].answer()
        return memory.traffic

    async def push(self, container: str, *, to: MemoryEndpoint, node: str) -> MemoryTraffic:
        if container not in self._postcopy:
            self._prepare_postcopy(container, to=to, node=node, compression=Compression.AUTO)
        return await self._postcopy[container].push_memory()

    def tracker(self, container: str) -> Tracker:
        """What tells which pages of the container are written from now on."""
        return best_tracker(freezer_of(self._layout.cgroup(container)).paused)

    def processes(self, container: str) -> tuple[Process, ...]:
        """The container's processes as they are now."""
        return processes.lookup(freezer_of(self._layout.cgroup(container)).processes())

    def _memory(self, container: str) -> OutgoingMemory:
        if container not in self._outgoing:
            raise TransshipError(f"sending the memory of {container}: no page server is connected")
        return self._outgoing[container]

    def _prepare_postcopy(
        self, container: str, *, to: MemoryEndpoint, node: str, compression: Compression
    ) -> None:
        self._postcopy[container] = PostcopySource(
            self._page_server(to, node=node),
            lambda: self.processes(container),
            compression=compression,
        )

    def _page_server(self, to: MemoryEndpoint, *, node: str) -> PageServerEndpoint:
        return PageServerEndpoint(to.address, to.port, node=node, context=self._client_tls)
