"""The processes of outgoing containers: freezing, dumping, ending them (the port Checkpoints).

CRIU dumps without the memory (lazy pages), which memory_transfer sends to the target by itself.
"""

from __future__ import annotations

import asyncio

from transship.agent.migration import timeouts
from transship.agent.migration.source.deps import Dumped, StreamOptions
from transship.agent.migration.source.memory_transfer import NodeMemoryTransfer
from transship.agent.migration.target.restores import NodeRestores
from transship.agentapi.migrations import MemoryEndpoint
from transship.common.errors import TransshipError
from transship.criu.dump import Dumper, DumpRequest, Pages
from transship.criu.failures import require_no_missing_pages, still_arriving
from transship.criu.images import pagemap as pagemaps
from transship.linux import mounts
from transship.linux.freezer import Freezer, freezer_of
from transship.linux.mappings import shared_writable_files_of
from transship.runtime.layout import Layout

LINK_REMAPS = "remap-fpath.img"
"""This image exists where an open file has lost its name: CRIU may have given it another one."""
PREVIOUS_MOVE_SECONDS = 60.0
"""How long a move waits for the rest of the memory that the previous move still sends."""


class NodeCheckpoints:
    """Joins the source's role to freezer and CRIU of this node."""

    def __init__(
        self, layout: Layout, *, memory: NodeMemoryTransfer, restores: NodeRestores
    ) -> None:
        self._layout = layout
        self._memory = memory
        self._restores = restores
        self._dumpers: dict[str, Dumper] = {}

    def mapped(self, container: str) -> frozenset[str]:
        return shared_writable_files_of(self._freezer(container).processes())

    async def ready(
        self, container: str, *, to: MemoryEndpoint, node: str, options: StreamOptions
    ) -> None:
        await self._require_whole(container)
        await self._remove_images(container)
        await self._memory.connect(container, to=to, node=node, options=options)
        request = DumpRequest(
            container, self._layout, Pages.LAZY, timeout_seconds=timeouts.DUMP_SECONDS
        )
        try:
            self._dumpers[container] = await Dumper.ready(request)
        except BaseException:
            await self._memory.close(container)
            raise

    async def _require_whole(self, container: str) -> None:
        """Wait for the end of the previous move: CRIU cannot dump a page that is still to come."""
        try:
            async with asyncio.timeout(PREVIOUS_MOVE_SECONDS):
                await self._restores.settle(container)
        except TimeoutError as e:
            raise still_arriving() from e
        await asyncio.to_thread(require_no_missing_pages, self._freezer(container).processes())

    async def unready(self, container: str) -> None:
        dumper = self._dumpers.pop(container, None)
        await self._memory.close(container)
        if dumper is not None:
            await dumper.close()

    async def freeze(self, container: str) -> None:
        dumper = self._dumpers.get(container)
        await (self._freezer(container) if dumper is None else dumper).freeze()

    async def thaw(self, container: str) -> None:
        self._freezer(container).thaw()
        await self._remove_images(container)

    async def dump(self, container: str) -> Dumped:
        dumper = self._dumpers.get(container)
        if dumper is None:
            raise TransshipError(f"dumping {container}: nothing was made ready for it")
        done = await dumper.dump()
        await self._memory.reduce(container, pagemaps.shared(done.images))
        return Dumped(
            images=done.images,
            criu_seconds=done.criu_seconds,
            image_bytes=done.image_bytes,
            made_files=(done.images / LINK_REMAPS).exists(),
        )

    async def destroy(self, container: str) -> None:
        await self.unready(container)
        await self._restores.destroy(container)

    def _freezer(self, container: str) -> Freezer:
        return freezer_of(self._layout.cgroup(container))

    async def _remove_images(self, container: str) -> None:
        """Images lie on a tmpfs: what is not needed any more takes memory."""
        await asyncio.to_thread(mounts.remove_tree, self._layout.images(container))
