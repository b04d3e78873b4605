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
    """What the operator wants this node to hold. Every env entry has a plain value here.

    References are resolved too, once, where the spec is read: the agent expands nothing, since a
    second time would change what a Secret says and what $$ keeps from being a reference.

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


class ProbeState(Message):
    """What the probes have said of the present instance. Without probes it is started and ready."""

    started: bool = False
    ready: bool = False
    message: str = ""


class ReportedObstacle(Message):
    """What in a running container keeps it from being moved live.

    strategies: those that it stands in the way of; empty: all but Cold.
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
    """What an agent knows of a container: its own record, and what the kernel says."""

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
    """As the agent saw it last; it looks every 10 seconds, and whenever a move begins."""
    awaits_memory: bool = False  # it was moved here, and has not got all of its pages yet
    owes_memory: bool = False  # it has left, and its pages have not all followed yet
    released_to: str = ""  # the node that it was given away to, while that is remembered
    reason: str = ""
    message: str = ""
    hint: str = ""


class ContainerReports(Message):
    containers: tuple[ContainerReport, ...] = ()
