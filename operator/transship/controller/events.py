"""The ports to events, ConfigMaps, Secrets and taints, implemented by transship.kube."""

from __future__ import annotations

from collections.abc import Mapping

from transship.api.base import Resource
from transship.common.tasks import Tasks
from transship.controller.node.nodes import OUT_OF_SERVICE
from transship.controller.ports import DataKind
from transship.kube.client import KubeClient
from transship.kube.config_data import Source, read_data
from transship.kube.events import EventRecorder, EventType
from transship.kube.nodes import nodes_with_taint

ACTION = "Reconcile"
_SOURCES = {DataKind.CONFIG_MAP: Source.CONFIG_MAP, DataKind.SECRET: Source.SECRET}


class KubeRecorder:
    """Sends events in the background. Unsent ones are lost at the end of the process."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder
        self._sending = Tasks()

    def record_normal(self, regarding: Resource, *, reason: str, note: str) -> None:
        self._send(regarding, EventType.NORMAL, reason, note)

    def record_warning(self, regarding: Resource, *, reason: str, note: str) -> None:
        self._send(regarding, EventType.WARNING, reason, note)

    def _send(self, regarding: Resource, type: EventType, reason: str, note: str) -> None:
        sending = self._recorder.record(
            regarding, type=type, reason=reason, note=note, action=ACTION
        )
        _ = self._sending.begin(sending, name="record event")


class KubeTaints:
    """The taints of the cluster's Nodes; a cluster without Nodes has none."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def out_of_service(self) -> frozenset[str]:
        return await nodes_with_taint(self._client, OUT_OF_SERVICE)


class KubeConfigData:
    """ConfigMaps and Secrets of the cluster."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def read(self, kind: DataKind, *, namespace: str, name: str) -> Mapping[str, bytes]:
        return await read_data(self._client, _SOURCES[kind], namespace=namespace, name=name)
