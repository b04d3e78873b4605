"""`transship doctor`: where resources and nodes disagree, what is left over, which nodes ail.

It asks every agent what it holds and compares that with the resources. It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import typer

from transship.api.address_pool import AddressPool
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli import findings
from transship.cli.access import Certificates, operator_secret, tls_files
from transship.cli.findings import Finding, Told
from transship.cli.options import AsJson, Kubeconfig, kubeconfig_path, print_json, print_table
from transship.common.errors import TransshipError
from transship.controller.connections import AgentConnections
from transship.kube.client import KubeClient


def diagnose(
    kubeconfig: Kubeconfig = None, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """Compare the resources with the nodes; exit code 1 when anything is found."""
    found = asyncio.run(_examine(kubeconfig, certificates))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in found]})
    elif found:
        rows = [(f.subject, f.problem, f.remedy) for f in found]
        print_table(("SUBJECT", "PROBLEM", "REMEDY"), rows)
    else:
        typer.echo("resources and nodes agree")
    if found:
        raise typer.Exit(1)


async def _examine(kubeconfig: Path | None, certificates: Path | None) -> list[Finding]:
    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        placements = await client.listing(ContainerPlacement)
        migrations = await client.listing(ContainerMigration)
        agents, pools = await client.listing(NodeAgent), await client.listing(AddressPool)
        secret = await operator_secret(client, certificates)
    with tls_files(secret) as files:
        connections = AgentConnections(files)
        try:
            told, silent = await _ask(connections, agents.resources)
        finally:
            await connections.close()
    now = datetime.now(UTC)
    held = {node: said.containers for node, said in told.items()}
    complete = not silent and not agents.unreadable
    return [
        *findings.unreadable_findings(placements, migrations, agents, pools),
        *findings.node_findings(agents.resources),
        *silent,
        *findings.container_findings(placements, held, complete=complete),
        *findings.journal_findings(told),
        *findings.leftover_findings(told),
        *findings.migration_findings(migrations.resources, placements, now=now),
        *findings.deletion_findings([*placements.resources, *migrations.resources], now=now),
        *findings.address_findings(pools, placements),
    ]


async def _ask(
    connections: AgentConnections, agents: Iterable[NodeAgent]
) -> tuple[dict[str, Told], list[Finding]]:
    told: dict[str, Told] = {}
    silent = []
    for agent in agents:
        node = agent.metadata.name
        try:
            client = connections.to(agent)
            told[node] = Told(await client.node_report(), await client.containers())
        except TransshipError as e:
            silent.append(Finding(f"node {node}", e.message, "look at the agent's log there"))
    return told, silent
