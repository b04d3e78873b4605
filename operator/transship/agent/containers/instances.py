"""The instances of containers on a real node: runtime and network combined.

The network is created before the processes and destroyed after them. So a program has its address
from its first instruction on, and its last packets still leave the node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from transship.agent.containers.decide import ObservedContainer
from transship.agent.containers.deps import MakeProber
from transship.agent.containers.probes import Outcome, Prober
from transship.agent.migration.target import file_locks
from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.agentapi.states import RunState
from transship.api.obstacle import Obstacle
from transship.common.errors import NotFound
from transship.criu import census, externals, obstacles
from transship.linux.freezer import Freezer, FreezerState
from transship.memory.page_server.client import PageServerClient
from transship.network import Address, ContainerNetwork
from transship.network.unix_peers import unix_peers
from transship.runtime.containers import Observed, Runtime, State
from transship.runtime.orders import Order
from transship.runtime.volumes import OrderedVolume, VolumeFile

_RUN_STATES = {
    State.CREATED: RunState.CREATING,
    State.RUNNING: RunState.RUNNING,
    State.STOPPED: RunState.EXITED,
    State.ABSENT: RunState.ABSENT,
}


@dataclass(frozen=True)
class NodeInstances:
    """Implements deps.Instances. Callers never overlap two calls for one container."""

    runtime: Runtime
    network: ContainerNetwork

    def observe(self, container_id: str) -> ObservedContainer:
        inspected = self.runtime.inspect(container_id)
        return ObservedContainer(
            run=self._run_state(container_id, inspected),
            pid=inspected.pid,
            exit_code=inspected.exit_code,
            exited_at=inspected.exited_at,
            out_of_memory=inspected.oom_killed,
            awaits_memory=PageServerClient.find(self.runtime.layout, container_id) is not None,
        )

    async def fetch(self, order: ContainerOrder) -> str:
        return (await self.runtime.prepare(runtime_order(order))).digest

    async def start(self, order: ContainerOrder) -> None:
        # a page server left over would make the new instance look like one that awaits memory
        await PageServerClient.leftover(self.runtime.layout, order.id).close()
        await self._connect(order)
        await self.runtime.start(order.id)

    async def attach(self, order: ContainerOrder) -> None:
        await self._connect(order)

    async def freeze(self, container_id: str) -> None:
        await self.freezer(container_id).freeze()

    async def thaw(self, container_id: str) -> None:
        # it may be a restored copy whose agent died after it wrote Running, before the thaw
        images = self.runtime.layout.images(container_id)
        await asyncio.to_thread(file_locks.resume, self.freezer(container_id), images)

    async def stop(self, order: ContainerOrder) -> None:
        grace = order.container.termination_grace_period_seconds
        await self.runtime.stop(order.id, grace_seconds=grace)

    async def await_exit(self, container_id: str) -> None:
        await self.runtime.await_exit(container_id)

    async def find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
        return await asyncio.to_thread(self._find_obstacles, container_id)

    def _find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
        peers = unix_peers(self.network.namespace(container_id))
        pids = self.freezer(container_id).processes()
        spec = externals.read_spec(self.runtime.layout.bundle(container_id))
        mounts = [mount.destination for mount in spec.mounts]
        return obstacles.obstacles_in(census.take(pids, peers=peers, runtime_mounts=mounts))

    async def clear(self, container_id: str) -> None:
        await self.runtime.destroy(container_id)

    async def remove(self, container_id: str) -> None:
        await self.runtime.remove(container_id)
        await asyncio.to_thread(self.network.destroy, container_id)

    async def _connect(self, order: ContainerOrder) -> None:
        addresses = addresses_of(order)
        await asyncio.to_thread(self.network.create, order.id, addresses)
        if addresses:
            self.network.serve(order.id)

    def freezer(self, container_id: str) -> Freezer:
        cgroup = self.runtime.layout.cgroup(container_id)
        hierarchies = self.runtime.hierarchies
        path = hierarchies.path(cgroup, controller="freezer")
        return Freezer(path, unified=hierarchies.unified)

    def _run_state(self, container_id: str, inspected: Observed) -> RunState:
        if inspected.state is State.RUNNING:
            return RunState.FROZEN if self._is_frozen(container_id) else RunState.RUNNING
        if inspected.exit_code is not None:
            return RunState.EXITED
        return _RUN_STATES[inspected.state]

    def _is_frozen(self, container_id: str) -> bool:
        with suppress(NotFound):  # the instance has just ended
            return self.freezer(container_id).state() is FreezerState.FROZEN
        return False


@dataclass(frozen=True)
class ContainerExecutor:
    """Runs the command of an exec probe."""

    runtime: Runtime
    container_id: str

    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        done = await self.runtime.execute(self.container_id, argv, timeout_seconds=timeout_seconds)
        return Outcome(succeeded=done.status == 0, answer=done.output.strip())


def make_prober(runtime: Runtime) -> MakeProber:
    """Probes that run their commands with this runtime."""

    def make(
        order: ContainerOrder,
        *,
        known: ProbeState,
        ran_seconds: float,
        changed: Callable[[], None],
    ) -> Prober:
        return Prober(
            order.container,
            address=order.addresses[0] if order.addresses else None,
            executor=ContainerExecutor(runtime, order.id),
            known=known,
            ran_seconds=ran_seconds,
            changed=changed,
        )

    return make


def runtime_order(order: ContainerOrder) -> Order:
    """The order as the runtime takes it."""
    volumes = tuple(
        OrderedVolume(
            volume.volume, tuple(VolumeFile(file.path, file.content) for file in volume.files)
        )
        for volume in order.volumes
    )
    return Order(
        id=order.id,
        name=order.name,
        container=order.container,
        volumes=volumes,
        addresses=order.addresses,
        digest=order.image_digest,
    )


def addresses_of(order: ContainerOrder) -> list[Address]:
    return [ip_address(text) for text in order.addresses]
