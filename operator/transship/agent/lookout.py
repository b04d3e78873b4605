"""Looks at every container that runs here for what would keep it from being moved live.

Now and then by itself, for the placement's condition Migratable, and whenever a move begins. What
one look finds counts only if the next one finds it too: a command that a probe has just started in
the container is there for a moment, with namespaces of its own until it has entered the others.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.agent.machine import Tools
from transship.common.errors import TransshipError
from transship.plan import movability
from transship.plan.obstacles import Obstacle
from transship.protocol.states import RecordState, RunState

LOOK_SECONDS = 10.0
SECOND_LOOK_SECONDS = 0.2


class Lookout:
    """What is known of each container; a look at one disturbs nothing."""

    def __init__(self, tools: Tools) -> None:
        self._journal = tools.journal
        self._machine = tools.machine
        self._seen: dict[str, tuple[Obstacle, ...]] = {}

    def seen(self, container: str) -> tuple[Obstacle, ...]:
        """As of the last look."""
        return self._seen.get(container, ())

    async def look(self, container: str) -> tuple[Obstacle, ...]:
        found = await self._machine.look_over(container)
        if found:
            await asyncio.sleep(SECOND_LOOK_SECONDS)
            again = await self._machine.look_over(container)
            found = tuple(each for each in again if any(map(each.is_same, found)))
        record = self._journal.get(container)
        if record is not None:
            found = (*movability.of_start(refuses_landlock=record.refuses_landlock), *found)
        self._seen[container] = found
        return found

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            running = self._running()
            self._seen = {name: seen for name, seen in self._seen.items() if name in running}
            for container in running:
                try:
                    await self.look(container)
                except TransshipError as e:  # it has just ended, or left
                    logger.bind(container=container, error=str(e)).debug("not looked over")

    def _running(self) -> list[str]:
        return [
            record.id
            for record in self._journal.all()
            if record.state is RecordState.RUNNING
            and self._machine.seen(record.id).run is RunState.RUNNING
        ]
