"""What supervisors need of their node.

`instances.NodeInstances` implements Instances on a real node; tests have one in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from transship.agent.containers.decide import ObservedContainer
from transship.agent.containers.probes import Prober
from transship.agent.journal.store import Journal
from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.api.obstacle import Obstacle
from transship.common.clock import Clock
from transship.common.errors import TransshipError


class Instances(Protocol):
    """The instances of this node's containers: images, file systems, network, processes.

    An instance is one run of a container, from its start to its exit. Methods raise TransshipError.
    """

    def observe(self, container_id: str) -> ObservedContainer:
        """The present state of the instance; takes less than a millisecond."""
        ...

    async def fetch(self, order: ContainerOrder) -> str:
        """Prepare image, volumes and bundle, which can take long. Returns the image's digest."""
        ...

    async def start(self, order: ContainerOrder) -> None: ...

    async def attach(self, order: ContainerOrder) -> None:
        """Connect to the network a container that ran on while the agent was down."""
        ...

    async def freeze(self, container_id: str) -> None: ...

    async def thaw(self, container_id: str) -> None: ...

    async def stop(self, order: ContainerOrder) -> None:
        """Send the stop signal, wait for the grace period, kill. Returns when nothing runs."""
        ...

    async def await_exit(self, container_id: str) -> None:
        """Wait for a short time until the exit status of an ended instance is known."""
        ...

    async def find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
        """What keeps a running container from being dumped. The container is not disturbed."""
        ...

    async def clear(self, container_id: str) -> None:
        """Remove what an ended instance left in the kernel and in memory; its files stay."""
        ...

    async def remove(self, container_id: str) -> None:
        """Remove everything, files included."""
        ...


@dataclass(frozen=True)
class Note:
    """The reason for a container's state, for its report."""

    reason: str = ""
    message: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: TransshipError) -> Note:
        return cls(error.reason, error.message, error.hint)


class MakeProber(Protocol):
    """Starts the probes of an instance."""

    def __call__(
        self,
        order: ContainerOrder,
        *,
        known: ProbeState,
        ran_seconds: float,
        changed: Callable[[], None],
    ) -> Prober:
        """known: the results so far. changed: called whenever the health changes."""
        ...


@dataclass(frozen=True)
class SupervisorDeps:
    """What the supervisors of all containers share."""

    journal: Journal
    instances: Instances
    clock: Clock
    prober: MakeProber
