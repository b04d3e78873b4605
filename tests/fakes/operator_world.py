"""The operator's loops on a cluster and agents in memory, without kopf and without waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from fakes.agents import FakeAgents
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster, FakeData, FakeRecorder
from fakes.resources import node_agent, placement
from transship.api.address_pool import AddressPool
from transship.api.base import Resource
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.controller.addresses.claims import AddressBook
from transship.controller.agent_poller import AgentPoller
from transship.controller.cache import ResourceCache
from transship.controller.deps import Deps
from transship.controller.limits import MoveLimits
from transship.controller.metrics import Metrics
from transship.controller.placement.resolver import Resolver
from transship.controller.reconcile.loops import Loops

IDLE_TIMEOUT_SECONDS = 15.0  # of real time: only what never comes to hold waits for its end


class FakeLifetime:
    """Waiting costs only fake time, shared by all loops."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.over = False

    async def wait(self, wake: asyncio.Event, *, seconds: float) -> None:
        await asyncio.sleep(0.001)
        if not wake.is_set():
            self._clock.pass_time(min(seconds, 1.0))


class WatchedLoops(Loops):
    """Keeps what a loop ended with that must not end with anything."""

    errors: list[BaseException]

    def __init__(self, deps: Deps, lifetime: FakeLifetime) -> None:
        super().__init__(deps, lifetime)
        self.errors = []

    def _ended(self, resource: Resource, task: asyncio.Task[None]) -> None:
        super()._ended(resource, task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)


class OperatorWorld:
    """Start it as a context; `restart` is what a kill and a new process do."""

    def __init__(self, *nodes: str) -> None:
        self.clock = FakeClock()
        self.cluster = FakeCluster()
        self.agents = FakeAgents()
        self.data = FakeData()
        self.recorder = FakeRecorder()
        for name in nodes:
            self.cluster.put(node_agent(name))
            self.agents.at(name)
        pool = {"metadata": {"name": "default"}, "spec": {"cidr": "10.0.128.0/24"}}
        self.cluster.put(AddressPool.model_validate(pool))
        self._polls: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        await self.kill()

    def start(self) -> None:
        """A new process: it knows nothing but what the cluster and the agents say."""
        cache = ResourceCache()
        self.deps = Deps(
            cluster=self.cluster,
            cache=cache,
            agent_poller=AgentPoller(cache, self.agents, clock=self.clock),
            addresses=AddressBook(self.cluster),
            resolver=Resolver(self.data),
            recorder=self.recorder,
            metrics=Metrics(),
            limits=MoveLimits(cache),
            clock=self.clock,
        )
        self.lifetime = FakeLifetime(self.clock)
        self.loops = WatchedLoops(self.deps, self.lifetime)
        for model in (NodeAgent, ContainerPlacement, ContainerMigration):
            for resource in self.cluster.all(model):
                cache.put(resource)
        self.cluster.listener = self._on_change
        for model in (ContainerPlacement, ContainerMigration):
            for resource in self.cluster.all(model):
                self.loops.ensure_loop(resource)
        self._polls = asyncio.create_task(self._poll())

    async def kill(self) -> None:
        """No loop gets to do anything more, not even to say good-bye."""
        self.lifetime.over = True
        self.cluster.listener = lambda resource, gone: None
        if self._polls is not None:
            self._polls.cancel()
            await asyncio.gather(self._polls, return_exceptions=True)
            self._polls = None
        await self.loops.end()
        self._raise_errors()

    async def restart(self) -> None:
        await self.kill()
        self.start()

    def create(self, name: str = "web", **spec: Any) -> ContainerPlacement:
        metadata = {"finalizers": [], **spec.pop("metadata", {})}
        return self.cluster.put(placement(name, metadata=metadata, **spec))

    def move(self, node: str, name: str = "web") -> None:
        self.cluster.edit(ContainerPlacement, name, target_node=node)

    @property
    def web(self) -> ContainerPlacement:
        found = self.cluster.find(ContainerPlacement, "web")
        assert found is not None
        return found

    @property
    def moves(self) -> list[ContainerMigration]:
        return sorted(
            self.cluster.all(ContainerMigration), key=lambda m: (m.spec.epoch, m.spec.attempt)
        )

    async def until(self, holds: Callable[[], object]) -> None:
        """Let the loops run until this holds; a wrong exception of a loop ends it."""
        ends = asyncio.get_running_loop().time() + IDLE_TIMEOUT_SECONDS
        while not holds():
            self._raise_errors()
            assert asyncio.get_running_loop().time() < ends, "it did not come to hold"
            await asyncio.sleep(0.002)

    async def settle(self, passes: int = 40) -> None:
        """Give the loops the time of some passes, for what must not happen."""
        for _ in range(passes):
            await asyncio.sleep(0.002)

    def _on_change(self, resource: Resource, gone: bool) -> None:
        if gone:
            self.deps.cache.drop(resource)
            return
        self.loops.ensure_loop(self.deps.cache.put(resource))

    def _raise_errors(self) -> None:
        for error in self.loops.errors:
            raise error

    async def _poll(self) -> None:
        while True:
            for agent in self.deps.cache.node_agents():
                await self.deps.agent_poller.ask(agent.metadata.name)
            await asyncio.sleep(0.005)
