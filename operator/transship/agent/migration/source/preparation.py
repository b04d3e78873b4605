"""Before the freeze: files and memory are copied while the container runs.

All of it can be repeated: a container whose instance ends meanwhile is prepared anew.
"""

from __future__ import annotations

from loguru import logger

from transship.agent.migration.source.deps import SourceDeps, StreamOptions
from transship.agent.migration.source.files import FileCopy
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.precopy import Precopy
from transship.api.migration import StepName
from transship.api.placement import Compression
from transship.common.errors import Refused
from transship.common.tasks import together


class Preparation:
    """Brings outgoing migrations to where the freeze may follow."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._precopy = Precopy(deps)

    async def run(self, outgoing: OutgoingMigration) -> FileCopy:
        """Copy all files, and the memory as its strategy wants it. Returns the files' copy."""
        outgoing.preparation.files = files = self._file_copy(outgoing)
        while not await self._prepare_instance(outgoing, files):
            await self._give_up_instance(outgoing)
        return files

    def _file_copy(self, outgoing: OutgoingMigration) -> FileCopy:
        order = outgoing.order
        bundles, record = self._deps.bundles, self._deps.record(order.container)
        return FileCopy(
            bundles.home(record.id),
            bundles.trees(record),
            peer=order.target,
            migration=order.migration,
            context=self._deps.streams,
            bandwidth=outgoing.preparation.bandwidth,
            mapped=lambda: bundles.mapped(record, self._deps.checkpoints.mapped(record.id)),
        )

    async def _prepare_instance(self, outgoing: OutgoingMigration, files: FileCopy) -> bool:
        """Whether the instance that was prepared still is the one that runs, or does not run.

        A container that ends may run again, or wait for its next start: then it has no memory.
        """
        residents, container = self._deps.residents, outgoing.order.container
        outgoing.begin_with(await residents.wait_for_step(container))
        try:
            if outgoing.is_cold:
                await self._copy_files(outgoing, files)
            else:
                await self._copy_running(outgoing, files)
            await files.make_ready()
            await residents.pause_probes(container)
            if not outgoing.is_cold:
                await self._precopy.finish(outgoing)
        except Exception as e:
            if outgoing.is_cold or residents.instance(container) == outgoing.preparation.instance:
                raise
            logger.bind(container=container).info("the container ended while it was copied: {}", e)
            return False
        present = await residents.wait_for_step(container)
        if outgoing.ordered_strategy.ends_instance:
            outgoing.preparation.instance = present
        if present is None and outgoing.is_cold:
            # else its next start could come before the freeze
            residents.disown(container)
        return present == outgoing.preparation.instance

    async def _copy_running(self, outgoing: OutgoingMigration, files: FileCopy) -> None:
        container = outgoing.order.container
        await self._require_movable(outgoing)
        # programs are started on both nodes: that takes as long as copying a few files
        await together(self._copy_files(outgoing, files), self._make_ready(outgoing))
        await self._copy_memory(outgoing)
        await files.catch_up()
        # before it enters the queue: a stop with its grace would keep others waiting
        await self._deps.residents.wait_for_step(container)
        with outgoing.watch.step(StepName.AWAIT_TURN):
            await self._precopy.await_turn(outgoing)
        # again: all that may have taken long
        await self._require_movable(outgoing)

    async def _require_movable(self, outgoing: OutgoingMigration) -> None:
        """Raise Refused for what cannot be moved, before anything is done for it."""
        reported = await self._deps.residents.find_obstacles(outgoing.order.container)
        obstacles = [one for one in reported if one.concerns(outgoing.order.strategy)]
        if obstacles:
            first, more = obstacles[0], len(obstacles) - 1
            message = f"{first.message}; and {more} more" if more else first.message
            raise Refused(message, reason=first.reason, hint=first.hint)

    async def _copy_files(self, outgoing: OutgoingMigration, files: FileCopy) -> None:
        with outgoing.watch.step(StepName.COPY_FILES):
            await files.copy()
        outgoing.progress.bytes = files.bytes

    async def _make_ready(self, outgoing: OutgoingMigration) -> None:
        """Start the target's page server and the dump, and connect them."""
        order = outgoing.order
        page_server = await self._deps.peers.memory(order.target, order.migration)
        outgoing.preparation.page_server = page_server
        compression = order.settings.compression or Compression.AUTO
        options = StreamOptions(
            outgoing.ordered_strategy, outgoing.preparation.bandwidth, compression
        )
        await self._deps.end_probe(order.container)
        await self._deps.checkpoints.ready(
            order.container, to=page_server, node=order.target.node, options=options
        )

    async def _copy_memory(self, outgoing: OutgoingMigration) -> None:
        if outgoing.ordered_strategy.copies_memory_in_rounds:
            with outgoing.watch.step(StepName.COPY_MEMORY):
                await self._precopy.converge(outgoing)
        else:
            await self._precopy.reserve(outgoing)

    async def _give_up_instance(self, outgoing: OutgoingMigration) -> None:
        """Another instance may run by now, at full speed and probed, until it is copied in turn."""
        container = outgoing.order.container
        outgoing.leave_queue()
        await self._deps.checkpoints.unready(container)
        self._deps.cpu_throttle.release(container)
        self._deps.residents.readopt(container)
