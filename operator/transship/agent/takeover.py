"""The target's takeover: on the source's Released the held copy runs, as this node's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from transship.agent import records
from transship.agent.arrival import Arrival
from transship.agent.keepers import KeeperDead, KeeperSilent
from transship.agent.records import Record
from transship.agent.stopwatch import Stopwatch
from transship.agent.target_parts import TargetParts
from transship.api.migration import BlackoutPart
from transship.protocol.migrations import ResumeReply, VerdictNotice
from transship.protocol.states import RecordState, SideState

LOSE_AGAIN_SECONDS = 0.5
SETTLE_AGAIN_SECONDS = 1.0


class Takeover:
    """Lets one arrival after the other run."""

    def __init__(self, parts: TargetParts, *, lose: Callable[[str], Awaitable[None]]) -> None:
        """`lose` ends a container whose memory is lost, and says so."""
        self._with = parts
        self._lose = lose

    async def go(self, arrival: Arrival, notice: VerdictNotice, *, began: float) -> ResumeReply:
        """A repetition is answered with what the first one has led to."""
        if arrival.state is SideState.RUNNING:
            return ResumeReply(state=arrival.state, resume_microseconds=arrival.resume_microseconds)
        watch = Stopwatch(self._with.clock)
        with watch.part("RunJournal"):
            record = self._with.journal.put(records.running(self._with.record(arrival), notice))
        with watch.part("Thaw"):
            await self._run(arrival, record)
        resumed = self._with.clock.monotonic()
        with watch.part("Release"):
            if self._with.is_of_this_boot(record):
                self._with.wires.release(record)
        arrival.state = SideState.RUNNING
        arrival.resume_microseconds = round((resumed - began) * 1e6)
        if arrival.asking is not None and arrival.asking is not asyncio.current_task():
            arrival.asking.cancel()
        arrival.settling = asyncio.create_task(self.settle(arrival.container))
        logger.bind(migration=arrival.migration, container=record.id).info(
            "the container runs here"
        )
        return ResumeReply(
            state=SideState.RUNNING,
            resume_microseconds=arrival.resume_microseconds,
            parts=tuple(
                BlackoutPart(name=p.name, microseconds=p.microseconds) for p in watch.parts
            ),
        )

    async def _run(self, arrival: Arrival, record: Record) -> None:
        """The container is ours now: where this fails, its supervisor mends what is left."""
        if arrival.resumed:
            return
        try:
            if not self._with.is_of_this_boot(record):
                pass  # nothing is left to resume
            elif record.started_boot:
                await self._with.copies.resume(record.id)
            elif record.state is RecordState.RUNNING and not _waits(arrival):
                await self._with.residents.start(record)
        except Exception as e:
            log = logger.bind(migration=arrival.migration, container=record.id, error=str(e))
            log.warning("resuming failed: left to the container's supervisor")
        arrival.resumed = True
        self._with.residents.adopt(record, pid=arrival.pid, lifecycle=arrival.lifecycle)

    async def settle(self, container: str) -> None:
        """Wait until it has all of its memory, and drop what was needed for that."""
        while True:
            try:
                return await self._with.copies.settle(container)
            except KeeperDead:  # the kernel gives zeros for what is missing: it must not run on
                return await self.end_lost(container)
            except KeeperSilent as e:  # it may be giving pages all the same
                log = logger.bind(container=container, reason=str(e.reason), error=str(e))
                log.warning("nobody knows whether the container gets its memory")
            except Exception as e:  # memory is lost until the next dump or the container's end
                log = logger.bind(container=container, error=str(e))
                log.warning("what the restore needed is left")
                return None
            await asyncio.sleep(SETTLE_AGAIN_SECONDS)

    async def end_lost(self, container: str) -> None:
        """End it, until that is done and noted: it may be ending by itself just now."""
        while True:
            try:
                return await self._lose(container)
            except Exception as e:
                logger.bind(container=container, error=str(e)).warning("not ended yet")
            await asyncio.sleep(LOSE_AGAIN_SECONDS)


def _waits(arrival: Arrival) -> bool:
    """Between two instances: its supervisor starts the next one when the back-off is over."""
    return arrival.lifecycle is not None and arrival.lifecycle.waiting_seconds > 0
