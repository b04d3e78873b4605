"""The target's question: a go may get lost, so a held copy's source is asked until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import RecordState, SideState, Verdict

ASK_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Between questions for a verdict that has not come; the last one repeats."""

Decide = Callable[[VerdictNotice], Awaitable[object]]


class VerdictPoller:
    """Asks for the verdicts of held copies; `decide` obeys one."""

    def __init__(self, deps: TargetDeps, decide: Decide) -> None:
        self._deps = deps
        self._decide = decide

    def begin(self, incoming: IncomingMigration) -> None:
        incoming.asking = asyncio.create_task(self._ask(incoming))

    async def _ask(self, incoming: IncomingMigration) -> None:
        """The go may get lost: ask the source until it has an answer to act on."""
        tries = 0
        while incoming.state is SideState.HELD:
            await asyncio.sleep(ASK_SECONDS[min(tries, len(ASK_SECONDS) - 1)])
            tries += 1
            record = self._deps.journal.of_migration(incoming.migration)
            if record is None or record.peer is None or record.state is not RecordState.HELD:
                return
            try:
                said = await self._deps.peers.verdict(record.peer, incoming.migration)
                if said.verdict in {Verdict.RELEASED, Verdict.ABORTED}:
                    await self._decide(
                        VerdictNotice(
                            migration=incoming.migration, verdict=said.verdict, epoch=said.epoch
                        )
                    )
            except Exception as e:  # whatever it is, only an answer ends the asking
                logger.bind(migration=incoming.migration).warning("no verdict yet: {}", e)
