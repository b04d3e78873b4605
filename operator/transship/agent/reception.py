"""The target's way in: prepare, receive, restore held.

Nothing of it runs here yet, and nothing is promised: whatever fails is cleared away (clearance).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from pathlib import Path

from loguru import logger

from transship.agent import deadlines, records
from transship.agent.arrival import Arrival
from transship.agent.clearance import Clearance
from transship.agent.records import Record
from transship.agent.stopwatch import Stopwatch
from transship.agent.target_parts import TargetParts, in_thread
from transship.api.migration import StepName
from transship.api.placement import Strategy
from transship.common.certificates import agent_name
from transship.common.errors import Refused, TransshipError
from transship.protocol.migrations import (
    LARGEST_RESTORE_BODY_BYTES,
    IncomingOrder,
    MemoryEndpoint,
    RestoreRequest,
)
from transship.protocol.states import SideState
from transship.transfer import images
from transship.transfer.files import receive_trees
from transship.transfer.streams import Stream, accept

RECEIVE_TIMEOUT_SECONDS = 24 * 3600.0
PAGES_TIMEOUT_SECONDS = 10.0  # without a page that comes


class Reception:
    """Brings one arrival after the other up to the held copy."""

    def __init__(self, parts: TargetParts, clearance: Clearance) -> None:
        self._with = parts
        self._clearance = clearance

    def arriving(self, order: IncomingOrder) -> Record:
        """The record that an order asks for. Raises Refused when it cannot be."""
        journal, container = self._with.journal, order.order.id
        return records.arriving(
            journal.get(container), order, boot=journal.boot, floor=journal.floor(container)
        )

    async def prepare(self, arrival: Arrival, order: IncomingOrder) -> None:
        """Everything that can be had before the source begins."""
        journal = self._with.journal
        try:
            with arrival.watch.step(StepName.PREPARE):
                await self._with.vacate(arrival.container)
                record = journal.put(self.arriving(order))
                digest = await self._with.bundles.prepare(record)
                await in_thread(self._with.wires.create_held, record)
                journal.put(self._with.record(arrival).but(image_digest=digest))
            arrival.state = SideState.PREPARED
        except Exception as e:  # reported; the operator decides what follows
            logger.bind(migration=arrival.migration).warning("preparing failed: {}", e)
            await self._clearance.fail(arrival, e)

    async def open_memory(self, arrival: Arrival) -> MemoryEndpoint:
        """Get ready for the pages and for the restore."""
        record = self._with.record(arrival)
        node = "" if record.peer is None else record.peer.node
        return await self._with.copies.receive(arrival.container, node=node)

    async def receive_files(self, arrival: Arrival, *, client: str, stream: Stream) -> None:
        record = self._with.record(arrival)
        if record.peer is None or client != agent_name(record.peer.node):
            raise Refused(
                f"{client} is not the source of {arrival.migration}", reason="NotPermitted"
            )
        with arrival.receiving():
            await accept(stream)
            await receive_trees(
                self._with.bundles.home(arrival.container),
                stream=stream,
                timeout_seconds=RECEIVE_TIMEOUT_SECONDS,
            )

    async def restore(
        self,
        arrival: Arrival,
        request: RestoreRequest,
        *,
        body: AsyncIterable[bytes],
        watch: Stopwatch,
    ) -> None:
        """Restore the dump, held. A failure leaves nothing that could run."""
        cold = arrival.order is not None and arrival.order.strategy is Strategy.COLD
        try:
            if not cold:
                await self._restore_copy(arrival, request, body=body, watch=watch)
            with watch.part("Journal"):
                # Cold: no instance, neither to resume nor to report as lost; see takeover
                boot = "" if cold else self._with.journal.boot
                self._with.journal.put(
                    records.held(
                        self._with.record(arrival),
                        boot=boot,
                        refuses_landlock=request.refuses_landlock,
                    )
                )
        except BaseException as e:
            called_off = isinstance(e, asyncio.CancelledError)
            cause = TransshipError("the restore was called off") if called_off else e
            await self._clearance.fail(arrival, cause)
            raise
        arrival.state = SideState.HELD

    async def _restore_copy(
        self,
        arrival: Arrival,
        request: RestoreRequest,
        *,
        body: AsyncIterable[bytes],
        watch: Stopwatch,
    ) -> None:
        copies, container = self._with.copies, arrival.container
        with watch.part("UnpackImages"):
            await _unpack(body, copies.images(container))
        with watch.part("Mount"):
            await self._with.bundles.mount(container)
        with watch.part("Restore"):
            limit = deadlines.restore_seconds(image_bytes=request.image_bytes)
            restored = await copies.restore(container, timeout_seconds=limit)
        with watch.part("ReceivePages"):
            await copies.received(
                container, follows=request.memory_follows, timeout_seconds=PAGES_TIMEOUT_SECONDS
            )
        arrival.pid = restored.pid


async def _unpack(body: AsyncIterable[bytes], folder: Path) -> None:
    unpacker = images.Unpacker(folder, most=LARGEST_RESTORE_BODY_BYTES)
    try:
        async for block in images.gathered(body):
            await in_thread(unpacker.feed, block)
        unpacker.finish()
    finally:
        unpacker.close()
