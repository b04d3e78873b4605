"""Instances in memory: they start and stop at once; a test decides when a pull ends."""

from __future__ import annotations

import asyncio
from datetime import datetime

from transship.agent.containers.decide import ObservedContainer
from transship.agent.containers.deps import Instances
from transship.agentapi.containers import ContainerOrder
from transship.agentapi.states import RunState
from transship.api.obstacle import Obstacle
from transship.common.errors import TransshipError

DIGEST = "sha256:" + "0" * 64


class FakeInstances(Instances):
    def __init__(self) -> None:
        self.observed: dict[str, ObservedContainer] = {}
        self.removed: set[str] = set()
        self.attached: set[str] = set()
        self.starts = self.stops = 0
        self.exits_to_come: dict[str, int] = {}
        self.fetched: list[str | None] = []
        self.registry_answers = asyncio.Event()
        self.registry_answers.set()
        self.grace_is_over = asyncio.Event()
        self.grace_is_over.set()
        self.obstacles: tuple[Obstacle, ...] = ()
        self.failure: TransshipError | None = None

    def observe(self, container_id: str) -> ObservedContainer:
        return self.observed.get(container_id, ObservedContainer(RunState.ABSENT))

    def exit(self, container_id: str, code: int, *, at: datetime | None = None) -> None:
        self.observed[container_id] = ObservedContainer(
            RunState.EXITED, exit_code=code, exited_at=at
        )

    def power_cut(self) -> None:
        self.observed.clear()

    async def fetch(self, order: ContainerOrder) -> str:
        await self.registry_answers.wait()
        self.fetched.append(order.image_digest)
        if self.failure is not None:
            raise self.failure
        return DIGEST

    async def start(self, order: ContainerOrder) -> None:
        if self.failure is not None:
            raise self.failure
        self.starts += 1
        self.observed[order.id] = ObservedContainer(RunState.RUNNING, pid=1000 + self.starts)

    async def attach(self, order: ContainerOrder) -> None:
        self.attached.add(order.id)

    async def find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
        return self.obstacles

    async def freeze(self, container_id: str) -> None:
        self.observed[container_id] = ObservedContainer(
            RunState.FROZEN, pid=self.observe(container_id).pid
        )

    async def thaw(self, container_id: str) -> None:
        self.observed[container_id] = ObservedContainer(
            RunState.RUNNING, pid=self.observe(container_id).pid
        )

    async def stop(self, order: ContainerOrder) -> None:
        self.stops += 1
        await self.grace_is_over.wait()
        self.exit(order.id, 143)

    async def await_exit(self, container_id: str) -> None:
        if container_id in self.exits_to_come:
            self.exit(container_id, self.exits_to_come.pop(container_id))

    async def clear(self, container_id: str) -> None:
        self.observed.pop(container_id, None)

    async def remove(self, container_id: str) -> None:
        self.observed.pop(container_id, None)
        self.removed.add(container_id)
