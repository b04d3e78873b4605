"""Looks at every container that runs here for what would keep it from being moved live.

Now and then by itself, for the placement's condition Migratable, and whenever a move begins. What
one look finds counts only if the next one finds it too: a command that a probe has just started in
the container is there for a moment, with namespaces of its own until it has entered the others.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.agent.containers.deps import Instances
from transship.agent.journal.store import Journal
from transship.agentapi.states import RecordState, RunState
from transship.api.obstacle import Obstacle
from transship.common.errors import TransshipError
from transship.common.tasks import for_each
from transship.criu import obstacles

SCAN_SECONDS = 10.0
RESCAN_SECONDS = 0.2


class MigratabilityScan:
    """What is known of each container; a look at one disturbs nothing."""

    def __init__(self, journal: Journal, instances: Instances) -> None:
        self._journal, self._instances = journal, instances
        self._obstacles: dict[str, tuple[Obstacle, ...]] = {}

    def obstacles(self, container: str) -> tuple[Obstacle, ...]:
        """As of the last look."""
        return self._obstacles.get(container, ())

    async def scan(self, container: str) -> tuple[Obstacle, ...]:
        found = await self._instances.find_obstacles(container)
        if found:
            await asyncio.sleep(RESCAN_SECONDS)
            again = await self._instances.find_obstacles(container)
            found = tuple(each for each in again if any(map(each.is_same, found)))
        record = self._journal.get(container)
        if record is not None:
            found = (*obstacles.of_start(refuses_landlock=record.refuses_landlock), *found)
        self._obstacles[container] = found
        return found

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            ours = [r.id for r in self._journal.all() if r.state is RecordState.RUNNING]
            self._obstacles = {name: seen for name, seen in self._obstacles.items() if name in ours}
            await for_each(ours, self._scan_if_running, doing="looking a container over")

    async def _scan_if_running(self, container: str) -> None:
        try:
            if self._instances.observe(container).run is RunState.RUNNING:
                await self.scan(container)
            else:
                self._obstacles.pop(container, None)
        except TransshipError as e:  # it has just ended, or left
            logger.bind(container=container, error=str(e)).debug("not looked over")
