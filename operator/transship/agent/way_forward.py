"""The source's way forward: copy while the container runs, freeze, hand over, decide.

Everything before `_decide` can be undone and is undone on any failure (see way_back), nothing after
it. The one line between the two is the journal's Released.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from functools import partial

from loguru import logger

from transship.agent import deadlines, records
from transship.agent.departure import Departure
from transship.agent.filecopy import FileCopy
from transship.agent.memory_rounds import MemoryRounds
from transship.agent.ports import Dumped, StreamWish
from transship.agent.source_parts import SourceParts, cancelled
from transship.api.migration import StepName
from transship.api.placement import Compression, Strategy
from transship.common.errors import Refused, TransshipError
from transship.protocol.migrations import LARGEST_RESTORE_BODY_BYTES, RestoreRequest
from transship.protocol.states import SideState, Verdict
from transship.transfer import images


class WayForward:
    """Brings one departure after the other up to the release."""

    def __init__(self, parts: SourceParts) -> None:
        self._with = parts
        self._rounds = MemoryRounds(parts)

    async def go(self, departure: Departure) -> None:
        order = departure.order
        log = logger.bind(migration=order.migration, container=order.container)
        log.bind(target=order.target.node, strategy=order.strategy).info("migration begins")
        await self._require_movable(departure)
        departure.files = files = self._file_copy(departure)
        if order.strategy is Strategy.COLD:
            await self._copy_files(departure, files)
        else:
            # programs are started on both nodes: it takes as long as copying a few files
            await _both(self._copy_files(departure, files), self._make_ready(departure))
            await self._copy_memory(departure)
            await files.catch_up()
            await self._with.residents.rest(order.container)  # before its turn
            with departure.watch.step(StepName.AWAIT_TURN):
                await self._rounds.keep_up(departure)
            await self._require_movable(departure)  # as it is now: all that may have taken long
        await self._hand_over(departure, files)

    async def _require_movable(self, departure: Departure) -> None:
        """Say what cannot be moved before anything is done for it."""
        if departure.order.strategy is Strategy.COLD:
            return
        looked = await self._with.residents.look_over(departure.order.container)
        found = [each for each in looked if each.concerns(departure.order.strategy)]
        if found:
            first, more = found[0], len(found) - 1
            message = f"{first.message}; and {more} more" if more else first.message
            raise Refused(message, reason=first.reason, hint=first.hint)

    def _file_copy(self, departure: Departure) -> FileCopy:
        order = departure.order
        bundles, record = self._with.bundles, self._with.record(order.container)
        return FileCopy(
            bundles.home(record.id),
            bundles.trees(record),
            peer=order.target,
            migration=order.migration,
            context=self._with.streams,
            pace=departure.pace,
            mapped=lambda: bundles.mapped(record, self._with.copies.mapped(record.id)),
        )

    async def _copy_files(self, departure: Departure, files: FileCopy) -> None:
        with departure.watch.step(StepName.COPY_FILES):
            await files.copy()
        departure.bytes = files.bytes

    async def _make_ready(self, departure: Departure) -> None:
        """Keeper, dump and the connection between them."""
        order = departure.order
        memory = await self._with.peers.memory(order.target, order.migration)
        departure.keeper = memory
        compression = order.settings.compression or Compression.AUTO
        wish = StreamWish(order.strategy, departure.pace, compression)
        await self._with.end_look(order.container)
        await self._with.copies.ready(order.container, to=memory, node=order.target.node, wish=wish)

    async def _hand_over(self, departure: Departure, files: FileCopy) -> None:
        order = departure.order
        await files.make_ready()
        await self._with.residents.quieten(order.container)
        await self._rounds.close_in(departure)
        # not before: from here on clients on the target's node wait
        await self._with.peers.hold(order.target, order.migration)
        with departure.watch.step(StepName.FREEZE):
            await self._freeze(departure)
        files.look_ahead()
        if order.strategy is Strategy.COLD:
            await self._restore(departure, files, None)
        else:
            if not departure.memory_follows:
                self._with.copies.begin_memory(order.container)
            dumped = await self._dump(departure)
            # the copy is restored around its memory while that is still on its way
            await _both(self._send_memory(departure), self._restore(departure, files, dumped))
        with departure.watch.step(StepName.DECIDE):
            self._decide(departure)

    async def _freeze(self, departure: Departure) -> None:
        order, journal = departure.order, self._with.journal
        await self._with.residents.rest(order.container)
        record = records.frozen(
            self._with.record(order.container), migration=order.migration, peer=order.target
        )
        # Cold: no instance any more, neither to thaw nor to report as lost; see _run_on
        boot = "" if order.strategy is Strategy.COLD else journal.boot
        journal.put(record.but(started_boot=boot))
        self._with.residents.disown(order.container)
        departure.pace.lift()  # from here on every byte that waits is blackout
        departure.state = SideState.FROZEN
        if order.strategy is Strategy.COLD:
            departure.frozen_at = self._with.clock.monotonic()
            await self._with.residents.stop(order.container)
            self._with.wires.divert(record, via=order.target)
        else:
            self._with.wires.divert(record, via=order.target)
            await self._with.wires.take_up(record)
            departure.frozen_at = self._with.clock.monotonic()
            await self._with.copies.freeze(order.container)
            self._release_brake(order.container)
        self._with.wires.shut(record)
        frozen = self._with.clock.monotonic() - departure.frozen_at
        departure.watch.note(StepName.FREEZE, seconds=frozen)

    def _release_brake(self, container: str) -> None:
        """CRIU works inside the container's cgroup: no quota of a move may slow that down.

        What is frozen does not run however much it may; the way back tries again.
        """
        try:
            self._with.brakes.release(container)
        except TransshipError as e:
            logger.bind(container=container).warning("it is dumped slowly: {}", e)

    async def _dump(self, departure: Departure) -> Dumped:
        with departure.watch.step(StepName.DUMP):
            dumped = await self._with.copies.dump(departure.order.container)
            size = images.size(dumped.images)
            if size > LARGEST_RESTORE_BODY_BYTES:  # the census before the freeze knew of less
                raise images.too_large(size, most=LARGEST_RESTORE_BODY_BYTES)
        departure.watch.note("CriuDump", seconds=dumped.criu_seconds)
        return dumped

    async def _copy_memory(self, departure: Departure) -> None:
        if departure.in_rounds:
            with departure.watch.step(StepName.COPY_MEMORY):
                await self._rounds.converge(departure)
        else:
            await self._rounds.announce(departure)

    async def _send_memory(self, departure: Departure) -> None:
        began = self._with.clock.monotonic()
        with departure.watch.part("SendMemory"):
            send = self._with.copies.send_memory
            if departure.memory_follows:
                send = self._with.copies.promise_memory
            departure.traffic = await send(departure.order.container)
        departure.bytes += departure.traffic.wire_bytes
        self._rounds.note_rate(departure, seconds=self._with.clock.monotonic() - began)

    async def _restore(self, departure: Departure, files: FileCopy, dumped: Dumped | None) -> None:
        # CRIU may create files at the dump: the difference of the files comes after it
        made_files = dumped is not None and dumped.made_files
        copied = files.bytes
        with departure.watch.step(StepName.SYNC_FILES):
            await files.send_difference(look_again=made_files)
        departure.bytes += files.bytes - copied
        with departure.watch.step(StepName.SEND_STATE):
            size = 0 if dumped is None else images.size(dumped.images)
            request = RestoreRequest(
                asleep=() if dumped is None else dumped.asleep,
                memory_follows=departure.memory_follows,
                image_bytes=0 if dumped is None else dumped.image_bytes,
                refuses_landlock=self._with.record(departure.order.container).refuses_landlock,
            )
        with departure.watch.step(StepName.RESTORE):
            reply = await self._with.peers.restore(
                departure.order.target,
                departure.order.migration,
                request=request,
                images=_nothing() if dumped is None else images.stream(dumped.images),
                size=size,
                timeout_seconds=deadlines.answer_seconds(
                    image_bytes=request.image_bytes, sent_bytes=size
                ),
                progress=None if dumped is None else partial(self._sent, departure),
            )
        departure.bytes += size
        departure.watch.add(reply.parts, prefix="Target")

    async def _sent(self, departure: Departure) -> int:
        return self._with.copies.sent_bytes(departure.order.container)

    def _decide(self, departure: Departure) -> None:
        """The point of no return. No await here: a cancel comes before it or after it."""
        order = departure.order
        if departure.cancelled:
            raise cancelled()
        record = records.released(
            self._with.record(order.container),
            epoch=order.epoch + 1,
            drains_to=departure.keeper if departure.memory_follows else None,
        )
        departure.release_tried = True
        self._with.journal.put(record)
        departure.verdict = Verdict.RELEASED
        departure.state = SideState.RELEASED


async def _nothing() -> AsyncIterator[bytes]:
    """A cold move has no images."""
    return
    yield


async def _both(one: Coroutine[None, None, None], other: Coroutine[None, None, None]) -> None:
    """Run both at once; the first failure ends the other, and is raised."""
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
