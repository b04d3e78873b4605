"""`transship logs`: prints the log of a placement's container, on whatever node it is."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from transship.agentapi.client.agent import AgentClient
from transship.agentapi.client.transport import context_for
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli.access import Certificates, operator_secret, tls_files
from transship.cli.options import Kubeconfig, Namespace, kubeconfig_path
from transship.common.errors import NotFound
from transship.common.tls import TlsFiles
from transship.kube.client import KubeClient


def show_logs(  # noqa: PLR0917 - typer hands options over by position
    name: Annotated[str, typer.Argument(help="Placement.")],
    namespace: Namespace = "default",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new lines as they are written.")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Print only so many last lines.")] = None,
    kubeconfig: Kubeconfig = None,
    certificates: Certificates = None,
) -> None:
    """Print the logs of a placement's container."""
    query = {"follow": "true" if follow else "false"}
    if tail is not None:
        query["tail"] = str(tail)
    asyncio.run(_show(name, namespace, query, kubeconfig, certificates))


async def _show(
    name: str,
    namespace: str,
    query: dict[str, str],
    kubeconfig: Path | None,
    certificates: Path | None,
) -> None:
    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        placement = await client.get(ContainerPlacement, name=name, namespace=namespace)
        node = placement.status.node
        if node is None:
            raise NotFound(f"placement {name} is on no node yet")
        agent = await client.get(NodeAgent, name=node)
        secret = await operator_secret(client, certificates)
    with tls_files(secret) as files:
        await _stream(agent, id=placement.metadata.uid, files=files, query=query)


async def _stream(agent: NodeAgent, *, id: str, files: TlsFiles, query: dict[str, str]) -> None:
    node = agent.metadata.name
    client = AgentClient(node, agent.status.endpoint, context=context_for(node, files))
    try:
        async for chunk in client.logs(id, query=query):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    finally:
        await client.close()
