"""Inside the freeze: dump the container, send what the target lacks, have it restored there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from transship.agent.migration import timeouts
from transship.agent.migration.source.deps import Dumped, SourceDeps
from transship.agent.migration.source.files import FileCopy
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agentapi.migrations import LARGEST_RESTORE_BODY_BYTES, RestoreRequest
from transship.api.migration import StepName
from transship.common.tasks import together
from transship.criu.images import archive as images

LEAST_MEASURED_BYTES = 4 << 20
"""The time of a smaller transfer depends on the round trip more than on the link's rate."""


class StateTransfer:
    """Brings frozen containers to the target, where they are restored and held."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps

    async def run(self, outgoing: OutgoingMigration, files: FileCopy) -> None:
        """Return when the target holds a restored copy."""
        files.begin_snapshot()
        if outgoing.is_cold:
            await self._restore(outgoing, files, None)
            return
        if not outgoing.strategy.memory_follows:
            self._deps.memory.begin_sending(outgoing.order.container)
        dumped = await self._dump(outgoing)
        # the target restores the processes while their memory is still being sent
        await together(self._send_memory(outgoing), self._restore(outgoing, files, dumped))

    async def _dump(self, outgoing: OutgoingMigration) -> Dumped:
        with outgoing.watch.step(StepName.DUMP):
            dumped = await self._deps.checkpoints.dump(outgoing.order.container)
            size = images.size(dumped.images)
            # the census before the freeze may have counted less
            if size > LARGEST_RESTORE_BODY_BYTES:
                raise images.too_large(size, most=LARGEST_RESTORE_BODY_BYTES)
        outgoing.watch.note("CriuDump", seconds=dumped.criu_seconds)
        return dumped

    async def _send_memory(self, outgoing: OutgoingMigration) -> None:
        began = self._deps.clock.monotonic()
        with outgoing.watch.part("SendMemory"):
            send = self._deps.memory.send
            if outgoing.strategy.memory_follows:
                send = self._deps.memory.begin_postcopy
            traffic = outgoing.progress.traffic = await send(outgoing.order.container)
        outgoing.progress.bytes += traffic.wire_bytes
        in_rounds = outgoing.ordered_strategy.copies_memory_in_rounds
        if not in_rounds and traffic.wire_bytes >= LEAST_MEASURED_BYTES:
            seconds = self._deps.clock.monotonic() - began
            node = outgoing.order.target.node
            self._deps.handover_stats.note_rate(node, traffic.wire_bytes / seconds)

    async def _restore(
        self, outgoing: OutgoingMigration, files: FileCopy, dumped: Dumped | None
    ) -> None:
        """Send the files' difference and the images; returns when the target has restored them."""
        order = outgoing.order
        await self._sync_files(outgoing, files, dumped)
        with outgoing.watch.step(StepName.SEND_STATE):
            size = 0 if dumped is None else images.size(dumped.images)
            request = RestoreRequest(
                cold=outgoing.is_cold,
                lifecycle=self._deps.residents.lifecycle(order.container),
                memory_follows=outgoing.strategy.memory_follows,
                image_bytes=0 if dumped is None else dumped.image_bytes,
                refuses_landlock=self._deps.record(order.container).refuses_landlock,
            )
        with outgoing.watch.step(StepName.RESTORE):
            reply = await self._deps.peers.restore(
                order.target,
                order.migration,
                request=request,
                images=_no_images() if dumped is None else images.stream(dumped.images),
                size=size,
                timeout_seconds=timeouts.answer_seconds(
                    image_bytes=request.image_bytes, sent_bytes=size
                ),
                progress=None if dumped is None else partial(self._sent_bytes, outgoing),
            )
        outgoing.progress.bytes += size
        outgoing.watch.add(reply.parts, prefix="Target")

    async def _sync_files(
        self, outgoing: OutgoingMigration, files: FileCopy, dumped: Dumped | None
    ) -> None:
        """After the dump, in which CRIU may create files."""
        made_files = dumped is not None and dumped.made_files
        copied = files.bytes
        with outgoing.watch.step(StepName.SYNC_FILES):
            await files.send_difference(has_new_files=made_files)
        outgoing.progress.bytes += files.bytes - copied

    async def _sent_bytes(self, outgoing: OutgoingMigration) -> int:
        return self._deps.memory.sent_bytes(outgoing.order.container)


async def _no_images() -> AsyncIterator[bytes]:
    return
    yield
