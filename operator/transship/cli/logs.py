"""`transship logs`: what a container has written, wherever it is now."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from transship.agentapi import paths
from transship.agentapi.client.agent import context_for
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli.access import Certificates, operator_secret, tls_files
from transship.cli.options import Kubeconfig, Namespace, kubeconfig_path
from transship.common.errors import NotFound, Refused, Unreachable
from transship.common.tls import TlsFiles
from transship.kube.client import KubeClient

CONNECT_TIMEOUT_SECONDS = 5.0


def show_logs(  # noqa: PLR0917 - typer hands options over by position
    name: Annotated[str, typer.Argument(help="Placement.")],
    namespace: Namespace = "default",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only the last lines.")] = None,
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
    url = agent.status.endpoint + paths.LOGS.format(id=placement.metadata.uid)
    with tls_files(secret) as files:
        await _stream(url, node=node, files=files, query=query)


async def _stream(url: str, *, node: str, files: TlsFiles, query: dict[str, str]) -> None:
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(ssl=context_for(node, files))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(url, params=query) as response,
        ):
            if response.status >= 400:
                raise Refused(f"node {node}: {await response.text()}")
            async for chunk in response.content.iter_any():
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
    except (aiohttp.ClientError, OSError) as e:
        raise Unreachable(f"reading the log from node {node}: {e}") from e
