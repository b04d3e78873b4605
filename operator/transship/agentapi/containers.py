"""Orders for and reports of single containers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Base64Bytes, Field

from transship import strategies
from transship.agentapi.message import Id, Message
from transship.agentapi.states import RecordState, RunState
from transship.api.base import MicroTime
from transship.api.container import Container, Volume
from transship.api.placement import DesiredState, LastExit, Strategy


class VolumeFile(Message):
    """One file of a configMap or secret volume."""

    path: str
    content: Base64Bytes


class ResolvedVolume(Message):
    """A volume of the placement; for configMap and secret with the files' content."""

    volume: Volume
    files: tuple[VolumeFile, ...] = ()


class ContainerOrder(Message):
    """The container that the operator orders a node to have. Every env entry has a plain value.

    The operator has resolved all references. The agent must not expand anything again: that would
    change values of Secrets that contain a $.

    id is the placement's UID. An agent refuses an order whose epoch is older than its record's, and
    an order for epoch 1 while it has promised the container away.
    """

    id: Id
    namespace: str
    name: str
    epoch: Annotated[int, Field(ge=1)]
    addresses: tuple[str, ...] = ()
    container: Container
    volumes: tuple[ResolvedVolume, ...] = ()
    state: DesiredState = DesiredState.RUNNING
    image_digest: str | None = None
    completed: bool = False
    """It has ended for good on another node: a node that does not have it does not start it."""
    last_exit: LastExit | None = None
    """Of a container that has completed."""


class ProbeState(Message):
    """The results of the probes of the present instance. Without probes it is started and ready."""

    started: bool = False
    ready: bool = False
    message: str = ""


class ReportedObstacle(Message):
    """Something in a running container that prevents a live move.

    strategies: those that it prevents. Empty: all but Cold.
    """

    reason: str
    message: str
    hint: str = ""
    strategies: tuple[Strategy, ...] = ()

    def concerns(self, strategy: Strategy) -> bool:
        return strategies.of(strategy).needs_criu and (
            not self.strategies or strategy in self.strategies
        )


class ContainerReport(Message):
    """What an agent reports of a container: its own record, and what the kernel shows."""

    id: str
    namespace: str
    name: str
    epoch: int
    record: RecordState
    run: RunState
    ready: bool = False
    start_time: MicroTime | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    image_digest: str | None = None
    migration: str | None = None
    obstacles: tuple[ReportedObstacle, ...] = ()
    """From the agent's last scan, which it makes every 10 seconds and when a move begins."""
    awaits_memory: bool = False  # it was moved here, and has not got all of its pages yet
    owes_memory: bool = False  # it has left, and its pages have not all followed yet
    released_to: str = ""  # the node that it was given away to, while that is remembered
    reason: str = ""
    message: str = ""
    hint: str = ""


class ContainerReports(Message):
    containers: tuple[ContainerReport, ...] = ()
