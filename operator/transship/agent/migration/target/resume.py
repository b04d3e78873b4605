"""The resume: on the verdict Released the held copy runs, and is this node's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.migration.stopwatch import Stopwatch
from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.migrations import ResumeReply, VerdictNotice
from transship.agentapi.states import RecordState, SideState
from transship.api.migration import BlackoutPart
from transship.memory.page_server.client import PageServerDead, PageServerSilent

LOSE_AGAIN_SECONDS = 0.5
"""Between tries to end a copy whose memory is lost."""
SETTLE_AGAIN_SECONDS = 1.0
"""Between questions to a page server that does not answer."""


class Resume:
    """Lets held copies run."""

    def __init__(self, deps: TargetDeps, *, lose: Callable[[str], Awaitable[None]]) -> None:
        """`lose` ends a container whose memory is lost, and reports that."""
        self._deps = deps
        self._lose = lose

    async def go(
        self, incoming: IncomingMigration, notice: VerdictNotice, *, began: float
    ) -> ResumeReply:
        """Write Running, then resume the copy and let packets in; can be repeated."""
        if incoming.state is SideState.RUNNING:
            return ResumeReply(
                state=incoming.state, resume_microseconds=incoming.resume_microseconds
            )
        watch = Stopwatch(self._deps.clock)
        with watch.part("RunJournal"):
            record = self._deps.journal.put(
                transitions.running(self._deps.record(incoming), notice)
            )
        with watch.part("Thaw"):
            await self._run(incoming, record)
        resumed = self._deps.clock.monotonic()
        with watch.part("Release"):
            if self._deps.is_of_this_boot(record):
                self._deps.network.release(record)
        incoming.state = SideState.RUNNING
        incoming.resume_microseconds = round((resumed - began) * 1e6)
        if incoming.polling is not None and incoming.polling is not asyncio.current_task():
            incoming.polling.cancel()
        incoming.settling = asyncio.create_task(self.settle(incoming.container))
        logger.bind(migration=incoming.migration, container=record.id).info(
            "the container runs here"
        )
        return ResumeReply(
            state=SideState.RUNNING,
            resume_microseconds=incoming.resume_microseconds,
            parts=tuple(
                BlackoutPart(name=p.name, microseconds=p.microseconds) for p in watch.parts
            ),
        )

    async def _run(self, incoming: IncomingMigration, record: Record) -> None:
        """Resume or start the container; where that fails, its supervisor repairs it."""
        if incoming.resumed:
            return
        try:
            if not self._deps.is_of_this_boot(record):
                # a reboot has ended the copy
                pass
            elif record.started_boot:
                await self._deps.restores.resume(record.id)
            elif record.state is RecordState.RUNNING and not _is_in_back_off(incoming):
                await self._deps.residents.start(record)
        except Exception as e:
            log = logger.bind(migration=incoming.migration, container=record.id, error=str(e))
            log.warning("resuming failed: left to the container's supervisor")
        incoming.resumed = True
        self._deps.residents.adopt(record, pid=incoming.pid, lifecycle=incoming.lifecycle)

    async def settle(self, container: str) -> None:
        """Wait until the copy has all of its memory, then drop what the restore needed."""
        while True:
            try:
                return await self._deps.restores.settle(container)
            # the kernel serves zeros for missing pages: the copy must not run on
            except PageServerDead:
                return await self.end_lost(container)
            # it may be serving pages all the same
            except PageServerSilent as e:
                log = logger.bind(container=container, reason=str(e.reason), error=str(e))
                log.warning("the page server does not answer: missing memory is unknown")
            # the images take memory until the next dump or the container's end
            except Exception as e:
                log = logger.bind(container=container, error=str(e))
                log.warning("images of the restore are not removed")
                return None
            await asyncio.sleep(SETTLE_AGAIN_SECONDS)

    async def end_lost(self, container: str) -> None:
        """End a copy whose memory is lost; retry until that is done and in the journal."""
        while True:
            try:
                return await self._lose(container)
            except Exception as e:
                logger.bind(container=container, error=str(e)).warning(
                    "container with lost memory not ended yet"
                )
            await asyncio.sleep(LOSE_AGAIN_SECONDS)


def _is_in_back_off(incoming: IncomingMigration) -> bool:
    """The supervisor starts the next instance when the back-off is over."""
    return incoming.lifecycle is not None and incoming.lifecycle.waiting_seconds > 0
