"""After the release: bring the verdict to the target until it is heard, end the frozen copy."""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.agent import duties, records
from transship.agent.departure import Departure
from transship.agent.records import Record
from transship.agent.source_parts import SourceParts
from transship.agent.way_back import WayBack
from transship.api.migration import StepName
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.common.errors import NotFound, TransshipError
from transship.protocol.migrations import ResumeReply, VerdictNotice
from transship.protocol.states import SideState, Verdict

GO_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between tries to bring the verdict to a target that does not answer; the last one repeats."""
DESTROY_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

LOST_TRIES = 6
"""In a row (2 s and more) that find the same: what is lost ends the container at the target."""

CALM_SECONDS = 0.1
"""Before what is left here is ended: freeing memory and mounts takes processor time, which where
both nodes share a machine the container's first replies need (14 ms of stall beyond the blackout
without this, 8 with it)."""


class Release:
    """Brings released departures to their end."""

    def __init__(self, parts: SourceParts, way_back: WayBack) -> None:
        self._with = parts
        self._way_back = way_back

    async def finish(self, departure: Departure) -> None:
        """Bring the verdict to the target until it has been heard, then end the frozen copy."""
        order = departure.order
        notice = VerdictNotice(
            migration=order.migration, verdict=Verdict.RELEASED, epoch=order.epoch + 1
        )
        with departure.watch.step(StepName.RESUME):
            await self._give_go(departure, notice)
        await self._drain(departure)
        await asyncio.sleep(CALM_SECONDS)
        await self._way_back.put_away(departure)
        with departure.watch.step(StepName.DESTROY):
            await self._end_frozen_copy(departure)
        departure.state = SideState.DONE
        logger.bind(
            migration=order.migration,
            container=order.container,
            blackout_ms=(departure.blackout_microseconds or 0) / 1e3,
        ).info("migration done")

    async def _end_frozen_copy(self, departure: Departure) -> None:
        """Until it is done: the copy stays frozen and Released as long as it cannot be ended."""
        tries = 0
        while True:
            try:
                async with departure.lock:
                    record = self._with.record(departure.order.container)
                    if departure.is_drained and record.drains_to is not None:
                        record = self._with.journal.put(records.drained(record))
                    await self.destroy(record)
                    if departure.forgotten:
                        self._with.journal.remove(record.id, floor=record.epoch + 1)
                return
            except NotFound:
                return
            except Exception as e:
                migration = departure.order.migration
                logger.bind(migration=migration).warning("frozen copy not destroyed yet: {}", e)
            await asyncio.sleep(DESTROY_RETRY_SECONDS[min(tries, len(DESTROY_RETRY_SECONDS) - 1)])
            tries += 1

    async def _drain(self, departure: Departure) -> None:
        """Where the memory follows: until the target has all of it, however often streams break."""
        record = self._with.record(departure.order.container)
        if record.drains_to is None:
            return
        tries = lost = 0
        with departure.watch.step(StepName.DRAIN):
            while True:
                try:
                    drained = await self._with.copies.drain(
                        record.id, to=record.drains_to, node=departure.order.target.node
                    )
                    departure.note_drained(drained)
                    break
                except Exception as e:  # also one of the kernel's: descriptors are short, say
                    logger.bind(migration=departure.order.migration).warning(
                        "memory not drained yet: {}", e
                    )
                    failure = e if isinstance(e, TransshipError) else TransshipError(str(e))
                    lost = lost + 1 if failure.reason == Reason.PAGES_LOST else 0
                    departure.failure = failure if lost >= LOST_TRIES else None
                if await self._is_whole(departure):
                    break
                await asyncio.sleep(GO_RETRY_SECONDS[min(tries, len(GO_RETRY_SECONDS) - 1)])
                tries += 1
        departure.is_drained, departure.failure = True, None

    async def _is_whole(self, departure: Departure) -> bool:
        """A keeper that has given all of its pages is gone: then its agent knows."""
        order = departure.order
        try:
            return not (await self._with.peers.memory_state(order.target, order.migration)).awaited
        except TransshipError:
            return False

    async def _give_go(self, departure: Departure, notice: VerdictNotice) -> None:
        tries = 0
        while True:
            sent = self._with.clock.monotonic()
            try:
                reply = await self._with.peers.decide(departure.order.target, notice)
            except TransshipError as e:
                logger.bind(migration=notice.migration).warning("go not delivered yet: {}", e)
                if isinstance(e, NotFound) and await self._is_whole(departure):
                    return  # it has had the container, and has none any more
            else:
                if reply.state is SideState.RUNNING:
                    self._note_blackout(departure, sent=sent, reply=reply)
                    return
            finally:  # those who wait need not wait for a target that is away
                departure.leave_queue()
            await asyncio.sleep(GO_RETRY_SECONDS[min(tries, len(GO_RETRY_SECONDS) - 1)])
            tries += 1

    def _note_blackout(self, departure: Departure, *, sent: float, reply: ResumeReply) -> None:
        """From the freeze to the thaw; the clocks differ, so the way of go is half a round trip."""
        if departure.frozen_at is None:
            return
        there_and_back = self._with.clock.monotonic() - sent
        resume = reply.resume_microseconds / 1e6
        way = max(0.0, there_and_back - resume) / 2
        departure.blackout_microseconds = round((sent + way + resume - departure.frozen_at) * 1e6)
        departure.watch.note(StepName.RESUME, seconds=way + resume)
        departure.watch.add(reply.parts, prefix="Target")
        if departure.strategy is not Strategy.COLD:
            self._with.experience.note(
                blackout=departure.blackout_microseconds / 1e6, parts=departure.watch.parts
            )

    async def destroy(self, record: Record) -> None:
        """Only the release makes this legal; it can be repeated."""
        successor = duties.released_to(record)
        duties.require_drained(record)
        await self._with.copies.destroy(record.id)
        self._with.brakes.release(record.id)  # its cgroup is gone: this forgets what it had
        await asyncio.to_thread(self._with.wires.leave, record, via=successor)
        await self._with.bundles.remove(record.id)
