"""The target's question: a go may get lost, so a held copy's source is asked until it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from transship.agent.arrival import Arrival
from transship.agent.target_parts import TargetParts
from transship.protocol.migrations import VerdictNotice
from transship.protocol.states import RecordState, SideState, Verdict

ASK_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Between questions for a verdict that has not come; the last one repeats."""

Decide = Callable[[VerdictNotice], Awaitable[object]]


class Inquiry:
    """Asks for the verdicts of held copies; `decide` obeys one."""

    def __init__(self, parts: TargetParts, decide: Decide) -> None:
        self._with = parts
        self._decide = decide

    def begin(self, arrival: Arrival) -> None:
        arrival.asking = asyncio.create_task(self._ask(arrival))

    async def _ask(self, arrival: Arrival) -> None:
        """The go may get lost: ask the source until it has an answer to act on."""
        tries = 0
        while arrival.state is SideState.HELD:
            await asyncio.sleep(ASK_SECONDS[min(tries, len(ASK_SECONDS) - 1)])
            tries += 1
            record = self._with.journal.of_migration(arrival.migration)
            if record is None or record.peer is None or record.state is not RecordState.HELD:
                return
            try:
                said = await self._with.peers.verdict(record.peer, arrival.migration)
                if said.verdict in {Verdict.RELEASED, Verdict.ABORTED}:
                    await self._decide(
                        VerdictNotice(
                            migration=arrival.migration, verdict=said.verdict, epoch=said.epoch
                        )
                    )
            except Exception as e:  # whatever it is, only an answer ends the asking
                logger.bind(migration=arrival.migration).warning("no verdict yet: {}", e)
