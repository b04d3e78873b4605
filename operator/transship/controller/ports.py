"""Ports: the interfaces through which the loops reach the API server and the agents.

transship.kube implements those of the API server, agentapi.client.agent those of an agent;
tests/fakes has one in memory for each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from transship.agentapi.containers import ContainerOrder, ContainerReport
from transship.agentapi.migrations import (
    IncomingOrder,
    MemoryLoss,
    MigrationReport,
    OutgoingOrder,
    ResumeReply,
    VerdictNotice,
    VerdictReply,
)
from transship.api.base import ApiModel, Resource
from transship.kube.listing import Listing

R = TypeVar("R", bound=Resource)


class Cluster(Protocol):
    """The API server: our kinds, as models (transship.kube.client.KubeClient)."""

    async def get(self, model: type[R], *, name: str, namespace: str | None = None) -> R: ...

    async def list(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> tuple[R, ...]: ...

    async def listing(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Listing[R]: ...

    async def create(self, resource: R) -> R: ...

    async def delete(
        self, model: type[R], *, name: str, namespace: str | None = None, uid: str | None = None
    ) -> None: ...

    async def json_patch(
        self,
        model: type[R],
        *,
        name: str,
        namespace: str | None = None,
        patch: Sequence[Mapping[str, Any]],
        subresource: str = "",
    ) -> R: ...

    async def apply_status(
        self,
        model: type[R],
        *,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        status: ApiModel,
    ) -> R: ...

    async def replace_status_checked(self, resource: R, *, status: ApiModel) -> R: ...


class Heartbeat(Protocol):
    """A lease, and whether its holder still renews it."""

    @property
    def name(self) -> str: ...

    @property
    def expired(self) -> bool: ...


class Heartbeats(Protocol):
    """The agents' leases (transship.kube.leases.Leases)."""

    async def list(self) -> Sequence[Heartbeat]: ...


class Taints(Protocol):
    """The Kubernetes Nodes' taints (controller.events.KubeTaints)."""

    async def out_of_service(self) -> frozenset[str]:
        """The nodes with the out-of-service taint: an administrator says that they are down."""
        ...


class DataKind(StrEnum):
    CONFIG_MAP = "ConfigMap"
    SECRET = "Secret"  # noqa: S105


class ConfigData(Protocol):
    """ConfigMaps and Secrets: read when a container is ordered, never listed, never logged."""

    async def read(self, kind: DataKind, *, namespace: str, name: str) -> Mapping[str, bytes]:
        """All keys. Raises NotFound with the reason ConfigMapNotFound or SecretNotFound."""
        ...


class Recorder(Protocol):
    """Records events of an object. Neither method raises or blocks."""

    def record_normal(self, regarding: Resource, *, reason: str, note: str) -> None: ...

    def record_warning(self, regarding: Resource, *, reason: str, note: str) -> None: ...


class Agent(Protocol):
    """One node's agent. Every call ends in time and raises Unreachable when no answer comes.

    What the agent does not know is None where something is read, and no error where it is ended or
    forgotten.
    """

    async def containers(self) -> tuple[ContainerReport, ...]: ...

    async def container(self, id: str) -> ContainerReport | None: ...

    async def put_container(self, order: ContainerOrder) -> ContainerReport: ...

    async def remove_container(self, id: str, *, epoch: int) -> None: ...

    async def outgoing(self, migration: str) -> MigrationReport | None: ...

    async def begin_outgoing(self, order: OutgoingOrder) -> MigrationReport: ...

    async def abort_outgoing(self, migration: str, *, container: str) -> MigrationReport | None: ...

    async def verdict(self, migration: str) -> VerdictReply: ...

    async def forget_outgoing(self, migration: str, *, gone: Collection[str] = ()) -> None:
        """gone: nodes that are fenced, for which no memory needs to be kept."""
        ...

    async def incoming(self, migration: str) -> MigrationReport | None: ...

    async def begin_incoming(self, order: IncomingOrder) -> MigrationReport: ...

    async def abort_incoming(self, migration: str) -> None: ...

    async def relay(self, notice: VerdictNotice) -> ResumeReply | None: ...

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None: ...

    async def forget_incoming(self, migration: str) -> None: ...
