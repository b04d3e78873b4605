"""After the release: bring the verdict to the target until it has it, end the frozen copy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from loguru import logger

from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import Record
from transship.agent.migration.source.deps import SourceDeps
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.rollback import Rollback
from transship.agentapi.migrations import MemoryEndpoint, ResumeReply, VerdictNotice
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import StepName
from transship.api.reasons import Reason
from transship.common.errors import NotFound, TransshipError

TARGET_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between tries to reach a target that does not answer; the last one repeats."""
DESTROY_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

LOST_TRIES = 6
"""In a row (2 s and more) that find pages lost, before the report says so: the operator then has
the target end the container."""

CALM_SECONDS = 0.1
"""Before what is left here is ended. Freeing memory and mounts takes CPU time; where both nodes
share a machine, the container's first replies need it (14 ms of stall beyond the blackout without
this pause, 8 ms with it)."""


class Completion:
    """Brings released migrations to their end."""

    def __init__(self, deps: SourceDeps, rollback: Rollback) -> None:
        self._deps = deps
        self._rollback = rollback

    async def finish(self, outgoing: OutgoingMigration) -> None:
        """Have the target resume, send what is left of the memory, end the frozen copy."""
        order = outgoing.order
        notice = VerdictNotice(
            migration=order.migration, verdict=Verdict.RELEASED, epoch=order.epoch + 1
        )
        with outgoing.watch.step(StepName.RESUME):
            await self._deliver_verdict(outgoing, notice)
        await self._push_memory(outgoing)
        await asyncio.sleep(CALM_SECONDS)
        await self._rollback.close_streams(outgoing)
        with outgoing.watch.step(StepName.DESTROY):
            await self._end_frozen_copy(outgoing)
        outgoing.progress.state = SideState.DONE
        logger.bind(
            migration=order.migration,
            container=order.container,
            blackout_ms=(outgoing.progress.blackout_microseconds or 0) / 1e3,
        ).info("migration done")

    async def _deliver_verdict(self, outgoing: OutgoingMigration, notice: VerdictNotice) -> None:
        """Try until the target reports that the container runs, or is gone there already."""
        tries = 0
        while True:
            sent_at = self._deps.clock.monotonic()
            try:
                reply = await self._deps.peers.decide(outgoing.order.target, notice)
            except TransshipError as e:
                logger.bind(migration=notice.migration).warning("verdict not delivered yet: {}", e)
                # the target has had the container, and has none any more
                if isinstance(e, NotFound) and await self._has_all_memory(outgoing):
                    return
            else:
                if reply.state is SideState.RUNNING:
                    self._note_blackout(outgoing, sent_at=sent_at, reply=reply)
                    return
            finally:
                # also after a failure: the next container need not wait for this target
                outgoing.leave_queue()
            await _pause(TARGET_RETRY_SECONDS, tries)
            tries += 1

    def _note_blackout(
        self, outgoing: OutgoingMigration, *, sent_at: float, reply: ResumeReply
    ) -> None:
        """Measure from the freeze to the resume.

        The nodes' clocks differ: the verdict's way to the target is taken as half the round trip.
        """
        frozen_at = outgoing.freeze.frozen_at
        if frozen_at is None:
            return
        round_trip = self._deps.clock.monotonic() - sent_at
        resume = reply.resume_microseconds / 1e6
        one_way = max(0.0, round_trip - resume) / 2
        blackout = round((sent_at + one_way + resume - frozen_at) * 1e6)
        outgoing.progress.blackout_microseconds = blackout
        outgoing.watch.note(StepName.RESUME, seconds=one_way + resume)
        outgoing.watch.add(reply.parts, prefix="Target")
        if outgoing.strategy.needs_criu:
            self._deps.handover_stats.note(blackout=blackout / 1e6, parts=outgoing.watch.parts)

    async def _push_memory(self, outgoing: OutgoingMigration) -> None:
        """Where the memory follows: send until the target has all of it."""
        record = self._deps.record(outgoing.order.container)
        if record.memory_goes_to is None:
            return
        with outgoing.watch.step(StepName.DRAIN):
            await self._push_until_whole(outgoing, record.memory_goes_to)
        outgoing.completion.is_memory_sent, outgoing.progress.failure = True, None

    async def _push_until_whole(
        self, outgoing: OutgoingMigration, page_server: MemoryEndpoint
    ) -> None:
        """Push again whenever the streams break; report pages that are lost for good."""
        order = outgoing.order
        tries = lost = 0
        while True:
            try:
                pushed = await self._deps.memory.push(
                    order.container, to=page_server, node=order.target.node
                )
            except Exception as e:  # also one of the kernel's, such as a lack of descriptors
                logger.bind(migration=order.migration).warning("memory not sent yet: {}", e)
                failure = e if isinstance(e, TransshipError) else TransshipError(str(e))
                lost = lost + 1 if failure.reason == Reason.PAGES_LOST else 0
                outgoing.progress.failure = failure if lost >= LOST_TRIES else None
            else:
                outgoing.progress.add_memory(pushed)
                return
            if await self._has_all_memory(outgoing):
                return
            await _pause(TARGET_RETRY_SECONDS, tries)
            tries += 1

    async def _has_all_memory(self, outgoing: OutgoingMigration) -> bool:
        """Ask the target's agent: a page server that has served all of its pages has ended."""
        order = outgoing.order
        try:
            return not (await self._deps.peers.memory_state(order.target, order.migration)).awaited
        except TransshipError:
            return False

    async def _end_frozen_copy(self, outgoing: OutgoingMigration) -> None:
        """Try until it is done: until then the copy stays frozen, and its record Released."""
        tries = 0
        while True:
            try:
                async with outgoing.completion.lock:
                    record = self._deps.record(outgoing.order.container)
                    if outgoing.completion.is_memory_sent and record.memory_goes_to is not None:
                        record = self._deps.journal.put(transitions.memory_sent(record))
                    await self.destroy(record)
                    if outgoing.completion.is_forgotten:
                        self._deps.journal.remove(record.id, floor=record.epoch + 1)
                return
            except NotFound:
                return
            except Exception as e:
                migration = outgoing.order.migration
                logger.bind(migration=migration).warning("frozen copy not destroyed yet: {}", e)
            await _pause(DESTROY_RETRY_SECONDS, tries)
            tries += 1

    async def destroy(self, record: Record) -> None:
        """End a released copy; can be repeated. Raises Refused before the release."""
        successor = recovery.released_to(record)
        recovery.require_memory_sent(record)
        await self._deps.checkpoints.destroy(record.id)
        # its cgroup is gone: this forgets the quota that it had
        self._deps.cpu_throttle.release(record.id)
        await asyncio.to_thread(self._deps.network.forward, record, via=successor)
        await self._deps.bundles.remove(record.id)


async def _pause(retry_seconds: Sequence[float], tries: int) -> None:
    await asyncio.sleep(retry_seconds[min(tries, len(retry_seconds) - 1)])
