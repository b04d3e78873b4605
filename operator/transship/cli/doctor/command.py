"""The command itself: takes snapshots of the cluster and prints the findings.

It queries every agent and compares the answers with the resources. Where they disagree, it does so
a second time, since the cluster changes while it reads.
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
from transship.cli.doctor.checks import AgentAnswer, Finding
from transship.cli.doctor.snapshot import Snapshot, lasting_findings
from transship.cli.options import AsJson, Kubeconfig, kubeconfig_path, print_json, print_table
from transship.common.errors import TransshipError
from transship.controller.agent_connections import AgentConnections
from transship.kube.client import KubeClient

# the operator polls the agents and writes their answers once a second
SECOND_SNAPSHOT_AFTER_SECONDS = 2.0
# with many more, the TLS handshakes take longer than a request's deadline
MAX_PARALLEL_QUERIES = 32


def diagnose(
    kubeconfig: Kubeconfig = None, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """Compare specs, status and nodes. Exit code 1 if anything is wrong."""
    findings = asyncio.run(_diagnosis(kubeconfig, certificates))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    elif findings:
        rows = [(f.subject, f.problem, f.remedy) for f in findings]
        print_table(("SUBJECT", "PROBLEM", "REMEDY"), rows)
    else:
        typer.echo("every placement is as its spec says; resources and nodes agree")
    if findings:
        raise typer.Exit(1)


async def _diagnosis(kubeconfig: Path | None, certificates: Path | None) -> list[Finding]:
    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        secret = await operator_secret(client, certificates)
        with tls_files(secret) as files:
            connections = AgentConnections(files)
            try:
                return await examine(lambda: _take_snapshot(client, connections))
            finally:
                await connections.close()


async def examine(
    take_snapshot: Callable[[], Awaitable[Snapshot]],
    *,
    pause_seconds: float = SECOND_SNAPSHOT_AFTER_SECONDS,
) -> list[Finding]:
    """The findings. Those that may be momentary have to be in a second snapshot as well."""
    first = await take_snapshot()
    if not first.contradictions() and not first.placement_findings():
        return first.findings()
    await asyncio.sleep(pause_seconds)
    return lasting_findings(first, await take_snapshot())


async def _take_snapshot(client: KubeClient, connections: AgentConnections) -> Snapshot:
    placements = await client.listing(ContainerPlacement)
    migrations = await client.listing(ContainerMigration)
    agents, pools = await client.listing(NodeAgent), await client.listing(AddressPool)
    answers, unreachable = await query_agents(agents.resources, connections.to)
    return Snapshot(
        placements, migrations, agents, pools, answers, unreachable, now=datetime.now(UTC)
    )


class AgentQueries(Protocol):
    """The part of an agent's API that the doctor needs."""

    async def node_report(self) -> NodeReport: ...

    async def containers(self) -> tuple[ContainerReport, ...]: ...


async def query_agents(
    agents: Iterable[NodeAgent], connect: Callable[[NodeAgent], AgentQueries]
) -> tuple[dict[str, AgentAnswer], tuple[Finding, ...]]:
    """The answers by node name, and a finding for each agent that did not answer.

    All agents are queried in parallel: a slow one must not make the others' answers old. `connect`
    raises Unreachable for an agent without an endpoint.
    """
    slots = asyncio.Semaphore(MAX_PARALLEL_QUERIES)

    async def query(agent: NodeAgent) -> AgentAnswer | Finding:
        async with slots:
            return await _query_agent(agent, connect)

    queried = tuple(agents)
    results = await asyncio.gather(*map(query, queried))
    answers = {
        agent.metadata.name: result
        for agent, result in zip(queried, results, strict=True)
        if isinstance(result, AgentAnswer)
    }
    return answers, tuple(result for result in results if isinstance(result, Finding))


async def _query_agent(
    agent: NodeAgent, connect: Callable[[NodeAgent], AgentQueries]
) -> AgentAnswer | Finding:
    try:
        client = connect(agent)
        return AgentAnswer(await client.node_report(), await client.containers())
    except TransshipError as e:
        return Finding(f"node {agent.metadata.name}", e.message, "look at the agent's log there")
