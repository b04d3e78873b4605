"""Asks the source of a held copy for its verdict: the message that brings it may get lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import RecordState, SideState, Verdict

POLL_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Before each question; the last pause repeats."""

Decide = Callable[[VerdictNotice], Awaitable[object]]


class VerdictPoller:
    """Asks for the verdicts of held copies; `decide` obeys a verdict."""

    def __init__(self, deps: TargetDeps, decide: Decide) -> None:
        self._deps = deps
        self._decide = decide

    def begin(self, incoming: IncomingMigration) -> None:
        incoming.polling = asyncio.create_task(self._poll(incoming))

    async def _poll(self, incoming: IncomingMigration) -> None:
        """Ask until the source has released or aborted the migration."""
        tries = 0
        while incoming.state is SideState.HELD:
            await asyncio.sleep(POLL_SECONDS[min(tries, len(POLL_SECONDS) - 1)])
            tries += 1
            record = self._deps.journal.of_migration(incoming.migration)
            if record is None or record.peer is None or record.state is not RecordState.HELD:
                return
            try:
                reply = await self._deps.peers.verdict(record.peer, incoming.migration)
                if reply.verdict in {Verdict.RELEASED, Verdict.ABORTED}:
                    await self._decide(
                        VerdictNotice(
                            migration=incoming.migration, verdict=reply.verdict, epoch=reply.epoch
                        )
                    )
            # only a verdict ends the polling
            except Exception as e:
                logger.bind(migration=incoming.migration).warning("no verdict yet: {}", e)
