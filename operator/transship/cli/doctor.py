"""`transship doctor`: what is not as it should be, of placements, resources and nodes.

Which placements are not what their specs say, where resources and nodes disagree, what is left
over, which nodes are not healthy. It asks every agent what it holds and compares that with the
resources, twice where they disagree: the world goes on while it reads. It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import typer

from transship.agentapi.containers import ContainerReport
from transship.agentapi.node import NodeReport
from transship.api.address_pool import AddressPool
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli.access import Certificates, operator_secret, tls_files
from transship.cli.findings import Finding, Told
from transship.cli.options import AsJson, Kubeconfig, kubeconfig_path, print_json, print_table
from transship.cli.snapshots import Look, lasting
from transship.common.errors import TransshipError
from transship.controller.agent_connections import AgentConnections
from transship.kube.client import KubeClient

SECOND_LOOK_AFTER_SECONDS = 2.0  # the operator asks the agents, and writes what they say, each 1 s
ASKED_AT_ONCE = 32  # the handshakes of many more would not end within a call's deadline


def diagnose(
    kubeconfig: Kubeconfig = None, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """Compare specs, resources and nodes; exit code 1 when anything is found."""
    found = asyncio.run(_diagnosis(kubeconfig, certificates))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in found]})
    elif found:
        rows = [(f.subject, f.problem, f.remedy) for f in found]
        print_table(("SUBJECT", "PROBLEM", "REMEDY"), rows)
    else:
        typer.echo("every placement is as its spec says; resources and nodes agree")
    if found:
        raise typer.Exit(1)


async def _diagnosis(kubeconfig: Path | None, certificates: Path | None) -> list[Finding]:
    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        secret = await operator_secret(client, certificates)
        with tls_files(secret) as files:
            connections = AgentConnections(files)
            try:
                return await examine(lambda: _look(client, connections))
            finally:
                await connections.close()


async def examine(
    look: Callable[[], Awaitable[Look]], *, pause_seconds: float = SECOND_LOOK_AFTER_SECONDS
) -> list[Finding]:
    """What is found; what may pass only where a second look finds it as well."""
    first = await look()
    if not first.contradictions() and not first.unmet():
        return first.findings()
    await asyncio.sleep(pause_seconds)
    return lasting(first, await look())


async def _look(client: KubeClient, connections: AgentConnections) -> Look:
    placements = await client.listing(ContainerPlacement)
    migrations = await client.listing(ContainerMigration)
    agents, pools = await client.listing(NodeAgent), await client.listing(AddressPool)
    told, silent = await ask(agents.resources, connections.to)
    return Look(placements, migrations, agents, pools, told, silent, now=datetime.now(UTC))


class Asked(Protocol):
    """What the doctor asks of an agent."""

    async def node_report(self) -> NodeReport: ...

    async def containers(self) -> tuple[ContainerReport, ...]: ...


async def ask(
    agents: Iterable[NodeAgent], to: Callable[[NodeAgent], Asked]
) -> tuple[dict[str, Told], tuple[Finding, ...]]:
    """All of them at the same time, so that one that does not answer makes no other's answer old.

    to: as AgentConnections.to, raising Unreachable for an agent that cannot be called.
    """
    slots = asyncio.Semaphore(ASKED_AT_ONCE)

    async def answer(agent: NodeAgent) -> Told | Finding:
        async with slots:
            return await _answer(agent, to)

    known = tuple(agents)
    answers = await asyncio.gather(*map(answer, known))
    told = {
        agent.metadata.name: said
        for agent, said in zip(known, answers, strict=True)
        if isinstance(said, Told)
    }
    return told, tuple(said for said in answers if isinstance(said, Finding))


async def _answer(agent: NodeAgent, to: Callable[[NodeAgent], Asked]) -> Told | Finding:
    try:
        asked = to(agent)
        return Told(await asked.node_report(), await asked.containers())
    except TransshipError as e:
        return Finding(f"node {agent.metadata.name}", e.message, "look at the agent's log there")
