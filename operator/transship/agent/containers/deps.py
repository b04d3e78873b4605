"""What a supervisor needs of its node, and what all supervisors share.

instances.NodeInstances is the real Instances; tests have one in memory.
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
    """The node's part of a container's life: images, file systems, network, processes."""

    def observe(self, container_id: str) -> ObservedContainer:
        """What is there now; under a millisecond."""
        ...

    async def fetch(self, order: ContainerOrder) -> str:
        """Everything up to the start that can take long; gives back the image's digest."""
        ...

    async def start(self, order: ContainerOrder) -> None: ...

    async def attach(self, order: ContainerOrder) -> None:
        """Make sure that a container that ran on without us is on the network."""
        ...

    async def freeze(self, container_id: str) -> None: ...

    async def thaw(self, container_id: str) -> None: ...

    async def stop(self, order: ContainerOrder) -> None:
        """Signal, grace period, kill; returns when nothing runs any more."""
        ...

    async def await_exit(self, container_id: str) -> None:
        """Wait a little until it is known how an instance ended that is seen to have ended."""
        ...

    async def find_obstacles(self, container_id: str) -> tuple[Obstacle, ...]:
        """What in a running container keeps it from being dumped; it is not disturbed."""
        ...

    async def clear(self, container_id: str) -> None:
        """Remove what an ended instance leaves in the kernel and in memory; its files stay."""
        ...

    async def remove(self, container_id: str) -> None:
        """Remove everything, files included."""
        ...


@dataclass(frozen=True)
class Note:
    """Why the container is as it is, for the report."""

    reason: str = ""
    message: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: TransshipError) -> Note:
        return cls(error.reason, error.message, error.hint)


class MakeProber(Protocol):
    def __call__(
        self,
        order: ContainerOrder,
        *,
        known: ProbeState,
        ran_seconds: float,
        changed: Callable[[], None],
    ) -> Prober:
        """Probe an instance that has run for so long, and of which this is known."""
        ...


@dataclass(frozen=True)
class SupervisorDeps:
    """What all supervisors share."""

    journal: Journal
    instances: Instances
    clock: Clock
    prober: MakeProber
