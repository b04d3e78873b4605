"""`transship doctor`: where resources and nodes disagree, and which nodes cannot do their work.

It asks every agent what it holds and compares that with the placements. It changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from transship.api.conditions import is_true
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli.access import Certificates, operator_secret, tls_files
from transship.cli.options import AsJson, Kubeconfig, kubeconfig_path, print_json, print_table
from transship.common.errors import TransshipError
from transship.controller.agents import AgentConnections
from transship.kube.client import KubeClient
from transship.protocol.containers import ContainerReport
from transship.protocol.states import RecordState

OWNING = frozenset({RecordState.RUNNING, RecordState.STOPPED, RecordState.FROZEN})


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    subject: str
    problem: str
    remedy: str


def diagnose(
    kubeconfig: Kubeconfig = None, certificates: Certificates = None, as_json: AsJson = False
) -> None:
    """Compare the resources with the nodes; exit code 1 when anything is found."""
    findings = asyncio.run(_examine(kubeconfig, certificates))
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings]})
    elif findings:
        rows = [(f.subject, f.problem, f.remedy) for f in findings]
        print_table(("SUBJECT", "PROBLEM", "REMEDY"), rows)
    else:
        typer.echo("resources and nodes agree")
    if findings:
        raise typer.Exit(1)


async def _examine(kubeconfig: Path | None, certificates: Path | None) -> list[Finding]:
    async with await KubeClient.connect(kubeconfig_path(kubeconfig)) as client:
        placements = await client.list(ContainerPlacement)
        agents = await client.list(NodeAgent)
        secret = await operator_secret(client, certificates)
    with tls_files(secret) as files:
        connections = AgentConnections(files)
        try:
            reports, silent = await _reports(connections, agents)
        finally:
            await connections.close()
    return [
        *node_findings(agents),
        *silent,
        *container_findings(placements, reports, complete=not silent),
    ]


async def _reports(
    connections: AgentConnections, agents: Iterable[NodeAgent]
) -> tuple[dict[str, tuple[ContainerReport, ...]], list[Finding]]:
    found: dict[str, tuple[ContainerReport, ...]] = {}
    silent = []
    for agent in agents:
        node = agent.metadata.name
        try:
            found[node] = await connections.to(agent).containers()
        except TransshipError as e:
            silent.append(Finding(f"node {node}", e.message, "look at the agent's log there"))
    return found, silent


def node_findings(agents: Iterable[NodeAgent]) -> list[Finding]:
    """Agents that are not Ready, with what they say themselves."""
    return [
        Finding(
            f"node {agent.metadata.name}",
            next((c.message for c in agent.status.conditions if c.type == "Ready"), "not Ready"),
            "kubectl describe nagent " + agent.metadata.name,
        )
        for agent in agents
        if not is_true(agent.status.conditions, "Ready")
    ]


def container_findings(
    placements: Sequence[ContainerPlacement],
    reports: dict[str, tuple[ContainerReport, ...]],
    *,
    complete: bool,
) -> list[Finding]:
    """Containers without a placement, twice owned, or nowhere; complete: every agent answered."""
    by_uid = {placement.metadata.uid: placement for placement in placements}
    owners: dict[str, list[str]] = {}
    findings = []
    for node, held in reports.items():
        for report in held:
            if report.record in OWNING:
                owners.setdefault(report.id, []).append(node)
            if report.id not in by_uid:
                findings.append(
                    Finding(
                        f"{report.namespace}/{report.name}",
                        f"node {node} has it ({report.record}), but there is no such placement",
                        "none is safe by itself: delete it on the node after a look at it",
                    )
                )
    findings += [_owned(by_uid[uid], owners.get(uid, []), complete=complete) for uid in by_uid]
    return [finding for finding in findings if finding.problem]


def _owned(placement: ContainerPlacement, nodes: list[str], *, complete: bool) -> Finding:
    meta, status = placement.metadata, placement.status
    subject = f"{meta.namespace}/{meta.name}"
    if len(nodes) > 1:
        return Finding(subject, f"owned by {' and '.join(nodes)}", "report this: it must not be")
    if not nodes and status.node is not None and complete:
        return Finding(subject, f"no node has it; its status says {status.node}", "see its events")
    if nodes and status.node is not None and nodes[0] != status.node:
        return Finding(
            subject, f"{nodes[0]} has it; its status says {status.node}", "is the operator running?"
        )
    return Finding(subject, "", "")
