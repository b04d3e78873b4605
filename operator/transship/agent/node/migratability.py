"""The scan of running containers for obstacles to a live migration.

It runs periodically, for the placement's condition Migratable, and whenever a migration begins. An
obstacle counts only if a second scan finds it too: a command that a probe has just started is in
the cgroup for a moment with namespaces of its own, until it has entered the container's.
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
    """The obstacles of each container. A scan does not disturb the container."""

    def __init__(self, journal: Journal, instances: Instances) -> None:
        self._journal, self._instances = journal, instances
        self._obstacles: dict[str, tuple[Obstacle, ...]] = {}

    def obstacles(self, container: str) -> tuple[Obstacle, ...]:
        """The obstacles that the last scan found."""
        return self._obstacles.get(container, ())

    async def scan(self, container: str) -> tuple[Obstacle, ...]:
        """Scan one container now. Raises TransshipError if it does not run."""
        present = await self._instances.find_obstacles(container)
        if present:
            await asyncio.sleep(RESCAN_SECONDS)
            again = await self._instances.find_obstacles(container)
            present = tuple(obstacle for obstacle in again if any(map(obstacle.is_same, present)))
        record = self._journal.get(container)
        if record is not None:
            present = (*obstacles.of_start(refuses_landlock=record.refuses_landlock), *present)
        self._obstacles[container] = present
        return present

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SCAN_SECONDS)
            running = [r.id for r in self._journal.all() if r.state is RecordState.RUNNING]
            for container in self._obstacles.keys() - set(running):
                del self._obstacles[container]
            await for_each(running, self._scan_if_running, doing="scanning a container")

    async def _scan_if_running(self, container: str) -> None:
        try:
            if self._instances.observe(container).run is RunState.RUNNING:
                await self.scan(container)
            else:
                self._obstacles.pop(container, None)
        except TransshipError as e:  # it has just ended or moved
            logger.bind(container=container, error=str(e)).debug("container not scanned")
