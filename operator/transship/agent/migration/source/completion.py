"""After the release: bring the verdict to the target until it is heard, end the frozen copy."""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import Record
from transship.agent.migration.source.deps import SourceDeps
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.rollback import Rollback
from transship.agentapi.migrations import ResumeReply, VerdictNotice
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import StepName
from transship.api.reasons import Reason
from transship.common.errors import NotFound, TransshipError

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

    def __init__(self, deps: SourceDeps, rollback: Rollback) -> None:
        self._deps = deps
        self._rollback = rollback

    async def finish(self, outgoing: OutgoingMigration) -> None:
        """Bring the verdict to the target until it has been heard, then end the frozen copy."""
        order = outgoing.order
        notice = VerdictNotice(
            migration=order.migration, verdict=Verdict.RELEASED, epoch=order.epoch + 1
        )
        with outgoing.watch.step(StepName.RESUME):
            await self._give_go(outgoing, notice)
        await self._push_memory(outgoing)
        await asyncio.sleep(CALM_SECONDS)
        await self._rollback.put_away(outgoing)
        with outgoing.watch.step(StepName.DESTROY):
            await self._end_frozen_copy(outgoing)
        outgoing.state = SideState.DONE
        logger.bind(
            migration=order.migration,
            container=order.container,
            blackout_ms=(outgoing.blackout_microseconds or 0) / 1e3,
        ).info("migration done")

    async def _end_frozen_copy(self, outgoing: OutgoingMigration) -> None:
        """Until it is done: the copy stays frozen and Released as long as it cannot be ended."""
        tries = 0
        while True:
            try:
                async with outgoing.lock:
                    record = self._deps.record(outgoing.order.container)
                    if outgoing.is_memory_sent and record.memory_goes_to is not None:
                        record = self._deps.journal.put(transitions.memory_sent(record))
                    await self.destroy(record)
                    if outgoing.forgotten:
                        self._deps.journal.remove(record.id, floor=record.epoch + 1)
                return
            except NotFound:
                return
            except Exception as e:
                migration = outgoing.order.migration
                logger.bind(migration=migration).warning("frozen copy not destroyed yet: {}", e)
            await asyncio.sleep(DESTROY_RETRY_SECONDS[min(tries, len(DESTROY_RETRY_SECONDS) - 1)])
            tries += 1

    async def _push_memory(self, outgoing: OutgoingMigration) -> None:
        """Where the memory follows: until the target has all of it, however often streams break."""
        record = self._deps.record(outgoing.order.container)
        if record.memory_goes_to is None:
            return
        tries = lost = 0
        with outgoing.watch.step(StepName.DRAIN):
            while True:
                try:
                    memory_sent = await self._deps.memory.push(
                        record.id, to=record.memory_goes_to, node=outgoing.order.target.node
                    )
                    outgoing.note_memory_sent(memory_sent)
                    break
                except Exception as e:  # also one of the kernel's: descriptors are short, say
                    logger.bind(migration=outgoing.order.migration).warning(
                        "memory not drained yet: {}", e
                    )
                    failure = e if isinstance(e, TransshipError) else TransshipError(str(e))
                    lost = lost + 1 if failure.reason == Reason.PAGES_LOST else 0
                    outgoing.failure = failure if lost >= LOST_TRIES else None
                if await self._is_whole(outgoing):
                    break
                await asyncio.sleep(GO_RETRY_SECONDS[min(tries, len(GO_RETRY_SECONDS) - 1)])
                tries += 1
        outgoing.is_memory_sent, outgoing.failure = True, None

    async def _is_whole(self, outgoing: OutgoingMigration) -> bool:
        """A page server that has given all of its pages is gone: then its agent knows."""
        order = outgoing.order
        try:
            return not (await self._deps.peers.memory_state(order.target, order.migration)).awaited
        except TransshipError:
            return False

    async def _give_go(self, outgoing: OutgoingMigration, notice: VerdictNotice) -> None:
        tries = 0
        while True:
            sent = self._deps.clock.monotonic()
            try:
                reply = await self._deps.peers.decide(outgoing.order.target, notice)
            except TransshipError as e:
                logger.bind(migration=notice.migration).warning("go not delivered yet: {}", e)
                if isinstance(e, NotFound) and await self._is_whole(outgoing):
                    return  # it has had the container, and has none any more
            else:
                if reply.state is SideState.RUNNING:
                    self._note_blackout(outgoing, sent=sent, reply=reply)
                    return
            finally:  # those who wait need not wait for a target that is away
                outgoing.leave_queue()
            await asyncio.sleep(GO_RETRY_SECONDS[min(tries, len(GO_RETRY_SECONDS) - 1)])
            tries += 1

    def _note_blackout(
        self, outgoing: OutgoingMigration, *, sent: float, reply: ResumeReply
    ) -> None:
        """From the freeze to the thaw; the clocks differ, so the way of go is half a round trip."""
        if outgoing.frozen_at is None:
            return
        there_and_back = self._deps.clock.monotonic() - sent
        resume = reply.resume_microseconds / 1e6
        way = max(0.0, there_and_back - resume) / 2
        outgoing.blackout_microseconds = round((sent + way + resume - outgoing.frozen_at) * 1e6)
        outgoing.watch.note(StepName.RESUME, seconds=way + resume)
        outgoing.watch.add(reply.parts, prefix="Target")
        if outgoing.strategy.needs_criu:
            self._deps.handover_stats.note(
                blackout=outgoing.blackout_microseconds / 1e6, parts=outgoing.watch.parts
            )

    async def destroy(self, record: Record) -> None:
        """Only the release makes this legal; it can be repeated."""
        successor = recovery.released_to(record)
        recovery.require_memory_sent(record)
        await self._deps.checkpoints.destroy(record.id)
        self._deps.cpu_throttle.release(record.id)  # its cgroup is gone: this forgets what it had
        await asyncio.to_thread(self._deps.network.leave, record, via=successor)
        await self._deps.bundles.remove(record.id)
