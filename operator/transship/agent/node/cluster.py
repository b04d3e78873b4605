"""The agent's two writes to the Kubernetes API: its NodeAgent's status and its lease.

The connection is made at the first write, not at the start: the client library takes a second to
load, and nothing that the agent does for containers may wait for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transship.api.node_agent import NodeAgentStatus
from transship.kube.client import KubeClient
from transship.kube.leases import Leases, agent_lease


@dataclass(frozen=True)
class _Connection:
    client: KubeClient
    leases: Leases


class KubeCluster:
    """registration.Cluster on a real API server."""

    def __init__(self, node: str, *, kubeconfig: Path | None) -> None:
        self._node = node
        self._kubeconfig = kubeconfig
        self._connection: _Connection | None = None

    async def register(self, status: NodeAgentStatus) -> None:
        connection = await self._connect()
        await connection.client.apply_node_agent(name=self._node, status=status)

    async def renew(self, *, duration_seconds: int) -> None:
        connection = await self._connect()
        await connection.leases.renew(
            agent_lease(self._node), holder=self._node, duration_seconds=duration_seconds
        )

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.client.close()

    async def _connect(self) -> _Connection:
        if self._connection is None:
            client = await KubeClient.connect(self._kubeconfig)
            if self._connection is None:  # the other write may have been faster
                self._connection = _Connection(client, Leases(client))
            else:
                await client.close()
        return self._connection
