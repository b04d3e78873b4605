"""The source's way forward: copy while the container runs, freeze, hand over, decide.

Everything before `_decide` can be undone and is undone on any failure (see rollback), nothing after
it. The one line between the two is the journal's Released.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from functools import partial

from loguru import logger

from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.migration import timeouts
from transship.agent.migration.source.deps import Dumped, SourceDeps, StreamOptions, cancelled
from transship.agent.migration.source.files import FileCopy
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.precopy import Precopy
from transship.agentapi.migrations import LARGEST_RESTORE_BODY_BYTES, RestoreRequest
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import StepName
from transship.api.placement import Compression
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.criu.images import archive as images


class Handover:
    """Brings one departure after the other up to the release."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._rounds = Precopy(deps)

    async def go(self, outgoing: OutgoingMigration) -> None:
        order = outgoing.order
        log = logger.bind(migration=order.migration, container=order.container)
        log.bind(target=order.target.node, strategy=order.strategy).info("migration begins")
        outgoing.files = files = self._file_copy(outgoing)
        while not await self._come_near(outgoing, files):
            await self._give_up_instance(outgoing)
        await self._hand_over(outgoing, files)

    async def _come_near(self, outgoing: OutgoingMigration, files: FileCopy) -> bool:
        """Copy until the handover may follow; False where what was copied has ended meanwhile.

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
                await self._rounds.close_in(outgoing)
        except Exception as e:
            if outgoing.is_cold or residents.instance(container) == outgoing.instance:
                raise
            logger.bind(container=container).info("it ended while it was copied: {}", e)
            return False
        present = await residents.wait_for_step(container)
        if outgoing.ordered_strategy.ends_instance:
            outgoing.instance = present
        if present is None and outgoing.is_cold:
            residents.disown(container)  # else its next start could come before the freeze
        return present == outgoing.instance

    async def _copy_running(self, outgoing: OutgoingMigration, files: FileCopy) -> None:
        container = outgoing.order.container
        await self._require_movable(outgoing)
        # programs are started on both nodes: it takes as long as copying a few files
        await _both(self._copy_files(outgoing, files), self._make_ready(outgoing))
        await self._copy_memory(outgoing)
        await files.catch_up()
        await self._deps.residents.wait_for_step(container)  # before its turn
        with outgoing.watch.step(StepName.AWAIT_TURN):
            await self._rounds.keep_up(outgoing)
        await self._require_movable(outgoing)  # as it is now: all that may have taken long

    async def _give_up_instance(self, outgoing: OutgoingMigration) -> None:
        """Another one may run by now, at its own speed and probed, until it is copied in turn."""
        container = outgoing.order.container
        outgoing.leave_queue()
        await self._deps.checkpoints.unready(container)
        self._deps.cpu_throttle.release(container)
        self._deps.residents.readopt(container)

    async def _require_movable(self, outgoing: OutgoingMigration) -> None:
        """Say what cannot be moved before anything is done for it."""
        looked = await self._deps.residents.find_obstacles(outgoing.order.container)
        found = [each for each in looked if each.concerns(outgoing.order.strategy)]
        if found:
            first, more = found[0], len(found) - 1
            message = f"{first.message}; and {more} more" if more else first.message
            raise Refused(message, reason=first.reason, hint=first.hint)

    def _file_copy(self, outgoing: OutgoingMigration) -> FileCopy:
        order = outgoing.order
        bundles, record = self._deps.bundles, self._deps.record(order.container)
        return FileCopy(
            bundles.home(record.id),
            bundles.trees(record),
            peer=order.target,
            migration=order.migration,
            context=self._deps.streams,
            bandwidth=outgoing.bandwidth,
            mapped=lambda: bundles.mapped(record, self._deps.checkpoints.mapped(record.id)),
        )

    async def _copy_files(self, outgoing: OutgoingMigration, files: FileCopy) -> None:
        with outgoing.watch.step(StepName.COPY_FILES):
            if outgoing.files_copied:
                await files.catch_up()
            else:
                await files.copy()
        outgoing.files_copied = True
        outgoing.bytes = files.bytes

    async def _make_ready(self, outgoing: OutgoingMigration) -> None:
        """PageServer, dump and the connection between them."""
        order = outgoing.order
        memory = await self._deps.peers.memory(order.target, order.migration)
        outgoing.page_server = memory
        compression = order.settings.compression or Compression.AUTO
        options = StreamOptions(outgoing.ordered_strategy, outgoing.bandwidth, compression)
        await self._deps.end_probe(order.container)
        await self._deps.checkpoints.ready(
            order.container, to=memory, node=order.target.node, options=options
        )

    async def _hand_over(self, outgoing: OutgoingMigration, files: FileCopy) -> None:
        order = outgoing.order
        # not before: from here on clients on the target's node wait
        await self._deps.peers.hold(order.target, order.migration)
        with outgoing.watch.step(StepName.FREEZE):
            await self._freeze(outgoing)
        files.look_ahead()
        if outgoing.is_cold:
            await self._restore(outgoing, files, None)
        else:
            if not outgoing.strategy.memory_follows:
                self._deps.memory.begin_sending(order.container)
            dumped = await self._dump(outgoing)
            # the copy is restored around its memory while that is still on its way
            await _both(self._send_memory(outgoing), self._restore(outgoing, files, dumped))
        with outgoing.watch.step(StepName.DECIDE):
            self._decide(outgoing)

    async def _freeze(self, outgoing: OutgoingMigration) -> None:
        order, journal = outgoing.order, self._deps.journal
        _settle_on(outgoing, await self._deps.residents.wait_for_step(order.container))
        record = transitions.frozen(
            self._deps.record(order.container), migration=order.migration, peer=order.target
        )
        # Cold: no instance any more, neither to thaw nor to report as lost; see _run_on
        if outgoing.is_cold:
            journal.put(record.but(started_boot="", probes=None))
        else:
            journal.put(record.but(started_boot=journal.boot))
        self._deps.residents.disown(order.container)
        outgoing.bandwidth.lift()  # from here on every byte that waits is blackout
        outgoing.state = SideState.FROZEN
        if outgoing.is_cold:
            began = await self._end_instance(outgoing, record)
        else:
            began = await self._freeze_instance(outgoing, record)
        outgoing.watch.note(StepName.FREEZE, seconds=self._deps.clock.monotonic() - began)

    async def _end_instance(self, outgoing: OutgoingMigration, record: Record) -> float:
        """Cold: by its stop signal, unless it has ended by itself."""
        residents = self._deps.residents
        began = outgoing.frozen_at = self._deps.clock.monotonic()
        if outgoing.instance is not None:
            if await residents.record_exit(record.id):
                outgoing.instance = None
            else:
                await residents.stop(record.id)
        with suppress(NotFound):  # of one that ended before its node was restarted
            self._deps.network.divert(record, via=outgoing.order.target)
            self._deps.network.shut(record)
        return began

    async def _freeze_instance(self, outgoing: OutgoingMigration, record: Record) -> float:
        """Where it ends in this very moment, it moves as one that does not run."""
        residents, checkpoints = self._deps.residents, self._deps.checkpoints
        self._deps.network.divert(record, via=outgoing.order.target)
        await self._deps.network.take_up(record)
        began = outgoing.frozen_at = self._deps.clock.monotonic()
        try:
            await checkpoints.freeze(record.id)
        except TransshipError:
            if residents.instance(record.id) is not None:
                raise
        if residents.instance(record.id) is None:
            await checkpoints.unready(record.id)
            await residents.record_exit(record.id)
            outgoing.go_cold()
        self._release_throttle(record.id)
        self._deps.network.shut(record)
        return began

    def _release_throttle(self, container: str) -> None:
        """CRIU works inside the container's cgroup: no quota of a move may slow that down.

        What is frozen does not run however much it may; the way back tries again.
        """
        try:
            self._deps.cpu_throttle.release(container)
        except TransshipError as e:
            logger.bind(container=container).warning("it is dumped slowly: {}", e)

    async def _dump(self, outgoing: OutgoingMigration) -> Dumped:
        with outgoing.watch.step(StepName.DUMP):
            dumped = await self._deps.checkpoints.dump(outgoing.order.container)
            size = images.size(dumped.images)
            if size > LARGEST_RESTORE_BODY_BYTES:  # the census before the freeze knew of less
                raise images.too_large(size, most=LARGEST_RESTORE_BODY_BYTES)
        outgoing.watch.note("CriuDump", seconds=dumped.criu_seconds)
        return dumped

    async def _copy_memory(self, outgoing: OutgoingMigration) -> None:
        if outgoing.ordered_strategy.copies_memory_in_rounds:
            with outgoing.watch.step(StepName.COPY_MEMORY):
                await self._rounds.converge(outgoing)
        else:
            await self._rounds.announce(outgoing)

    async def _send_memory(self, outgoing: OutgoingMigration) -> None:
        began = self._deps.clock.monotonic()
        with outgoing.watch.part("SendMemory"):
            send = self._deps.memory.send
            if outgoing.strategy.memory_follows:
                send = self._deps.memory.begin_postcopy
            outgoing.traffic = await send(outgoing.order.container)
        outgoing.bytes += outgoing.traffic.wire_bytes
        self._rounds.note_rate(outgoing, seconds=self._deps.clock.monotonic() - began)

    async def _restore(
        self, outgoing: OutgoingMigration, files: FileCopy, dumped: Dumped | None
    ) -> None:
        # CRIU may create files at the dump: the difference of the files comes after it
        made_files = dumped is not None and dumped.made_files
        copied = files.bytes
        with outgoing.watch.step(StepName.SYNC_FILES):
            await files.send_difference(look_again=made_files)
        outgoing.bytes += files.bytes - copied
        with outgoing.watch.step(StepName.SEND_STATE):
            size = 0 if dumped is None else images.size(dumped.images)
            request = RestoreRequest(
                cold=outgoing.is_cold,
                lifecycle=self._deps.residents.lifecycle(outgoing.order.container),
                memory_follows=outgoing.strategy.memory_follows,
                image_bytes=0 if dumped is None else dumped.image_bytes,
                refuses_landlock=self._deps.record(outgoing.order.container).refuses_landlock,
            )
        with outgoing.watch.step(StepName.RESTORE):
            reply = await self._deps.peers.restore(
                outgoing.order.target,
                outgoing.order.migration,
                request=request,
                images=_nothing() if dumped is None else images.stream(dumped.images),
                size=size,
                timeout_seconds=timeouts.answer_seconds(
                    image_bytes=request.image_bytes, sent_bytes=size
                ),
                progress=None if dumped is None else partial(self._sent, outgoing),
            )
        outgoing.bytes += size
        outgoing.watch.add(reply.parts, prefix="Target")

    async def _sent(self, outgoing: OutgoingMigration) -> int:
        return self._deps.memory.sent_bytes(outgoing.order.container)

    def _decide(self, outgoing: OutgoingMigration) -> None:
        """The point of no return. No await here: a cancel comes before it or after it."""
        order = outgoing.order
        if outgoing.cancelled:
            raise cancelled()
        record = transitions.released(
            self._deps.record(order.container),
            epoch=order.epoch + 1,
            memory_goes_to=outgoing.page_server if outgoing.strategy.memory_follows else None,
        )
        outgoing.release_tried = True
        self._deps.journal.put(record)
        outgoing.verdict = Verdict.RELEASED
        outgoing.state = SideState.RELEASED


async def _nothing() -> AsyncIterator[bytes]:
    """A cold move has no images."""
    return
    yield


def _settle_on(outgoing: OutgoingMigration, instance: int | None) -> None:
    """The last that is known of it before it is frozen. Raises Refused where it was restarted."""
    if outgoing.ordered_strategy.ends_instance:
        outgoing.instance = instance
    elif instance is None:
        outgoing.go_cold()
    elif instance != outgoing.instance:
        raise Refused(
            "the container was started anew just before its handover",
            reason=Reason.CONTAINER_RESTARTED,
            hint=Reason.CONTAINER_RESTARTED.hint,
        )


async def _both(one: Coroutine[None, None, None], other: Coroutine[None, None, None]) -> None:
    """Run both at once; the first failure ends the other, and is raised."""
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
