"""The restore: prepare, receive, restore, and hold the copy.

Nothing runs here yet, and the source still owns the container: whatever fails is cleaned up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from pathlib import Path

from loguru import logger

from transship import strategies
from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.migration import timeouts
from transship.agent.migration.stopwatch import Stopwatch
from transship.agent.migration.target.cleanup import Cleanup
from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.migrations import (
    LARGEST_RESTORE_BODY_BYTES,
    IncomingOrder,
    MemoryEndpoint,
    RestoreRequest,
)
from transship.agentapi.states import SideState
from transship.api.migration import StepName
from transship.common.certificates import agent_name
from transship.common.errors import Refused, TransshipError
from transship.common.tasks import in_thread
from transship.criu.images import archive as images
from transship.files.rsync import receive_trees
from transship.streams.connection import Stream, accept

RECEIVE_TIMEOUT_SECONDS = 24 * 3600.0
PAGES_TIMEOUT_SECONDS = 10.0
"""Without a page received."""


class HeldRestore:
    """Brings incoming migrations up to the held copy."""

    def __init__(self, deps: TargetDeps, cleanup: Cleanup) -> None:
        self._deps = deps
        self._cleanup = cleanup

    def incoming_record(self, order: IncomingOrder) -> Record:
        """The record of an incoming container. Raises Refused where the journal forbids it."""
        journal, container = self._deps.journal, order.order.id
        return transitions.incoming(
            journal.get(container), order, boot=journal.boot, floor=journal.floor(container)
        )

    async def prepare(self, incoming: IncomingMigration, order: IncomingOrder) -> None:
        """Prepare image, bundle and network; report a failure."""
        journal = self._deps.journal
        try:
            with incoming.watch.step(StepName.PREPARE):
                await self._deps.vacate(incoming.container)
                record = journal.put(self.incoming_record(order))
                digest = await self._deps.bundles.prepare(record)
                await in_thread(self._deps.network.create, record)
                journal.put(self._deps.record(incoming).but(image_digest=digest))
            incoming.state = SideState.PREPARED
        except Exception as e:
            logger.bind(migration=incoming.migration).warning("preparing failed: {}", e)
            await self._cleanup.fail(incoming, e)

    async def open_memory(self, incoming: IncomingMigration) -> MemoryEndpoint:
        """Start the page server and CRIU for the restore."""
        record = self._deps.record(incoming)
        node = "" if record.peer is None else record.peer.node
        return await self._deps.restores.receive(incoming.container, node=node)

    async def receive_files(
        self, incoming: IncomingMigration, *, client: str, stream: Stream
    ) -> None:
        record = self._deps.record(incoming)
        if record.peer is None or client != agent_name(record.peer.node):
            raise Refused(
                f"{client} is not the source of {incoming.migration}", reason="NotPermitted"
            )
        with incoming.receiving():
            await accept(stream)
            await receive_trees(
                self._deps.bundles.home(incoming.container),
                stream=stream,
                timeout_seconds=RECEIVE_TIMEOUT_SECONDS,
            )

    async def restore(
        self,
        incoming: IncomingMigration,
        request: RestoreRequest,
        *,
        body: AsyncIterable[bytes],
        watch: Stopwatch,
    ) -> None:
        """Restore the dump, held. After a failure nothing is left that could run."""
        ordered_cold = (
            incoming.order is not None and strategies.of(incoming.order.strategy).ends_instance
        )
        cold = ordered_cold or request.cold
        try:
            if not cold:
                await self._restore_copy(incoming, request, body=body, watch=watch)
            # ordered as a live move: page server and CRIU are ready for it
            elif not ordered_cold:
                await self._deps.restores.destroy(incoming.container)
            with watch.part("Journal"):
                # cold: no instance, neither to resume nor to report as lost (Resume._run)
                boot = "" if cold else self._deps.journal.boot
                record, lifecycle = self._deps.record(incoming), request.lifecycle
                self._deps.journal.put(
                    transitions.held(
                        record,
                        boot=boot,
                        lifecycle=lifecycle,
                        refuses_landlock=request.refuses_landlock,
                    )
                )
        except BaseException as e:
            aborted = isinstance(e, asyncio.CancelledError)
            cause = TransshipError("the restore was aborted") if aborted else e
            await self._cleanup.fail(incoming, cause)
            raise
        incoming.state, incoming.lifecycle = SideState.HELD, request.lifecycle

    async def _restore_copy(
        self,
        incoming: IncomingMigration,
        request: RestoreRequest,
        *,
        body: AsyncIterable[bytes],
        watch: Stopwatch,
    ) -> None:
        restores, container = self._deps.restores, incoming.container
        with watch.part("UnpackImages"):
            await _unpack(body, restores.images(container))
        with watch.part("Mount"):
            await self._deps.bundles.mount(container)
        with watch.part("Restore"):
            limit = timeouts.restore_seconds(image_bytes=request.image_bytes)
            restored = await restores.restore(container, timeout_seconds=limit)
        with watch.part("ReceivePages"):
            await restores.received(
                container, follows=request.memory_follows, timeout_seconds=PAGES_TIMEOUT_SECONDS
            )
        incoming.pid = restored.pid


async def _unpack(body: AsyncIterable[bytes], folder: Path) -> None:
    unpacker = images.Unpacker(folder, most=LARGEST_RESTORE_BODY_BYTES)
    try:
        async for block in images.gathered(body):
            await in_thread(unpacker.feed, block)
        unpacker.finish()
    finally:
        unpacker.close()
