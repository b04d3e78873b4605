"""Checks of resources against each other and against the agents' answers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from transship.agentapi.containers import ContainerReport
from transship.agentapi.node import NodeReport
from transship.api.address_pool import AddressPool, Allocation
from transship.api.base import Resource
from transship.api.conditions import Condition, is_true
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.api.reasons import Reason
from transship.controller.migration.history import is_finished
from transship.controller.placement.owner import OWNING
from transship.kube.listing import Listing

MARGIN = timedelta(minutes=5)
"""Added to every deadline. It also covers clock skew between this machine and the API server."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class AgentAnswer:
    """What one agent reports about its node and its containers."""

    node: NodeReport
    containers: tuple[ContainerReport, ...] = ()


def unreadable_findings(*listings: Listing[Any]) -> list[Finding]:
    """Objects that this version cannot parse. The operator ignores them."""
    return [
        Finding(
            f"{unreadable.kind} {unreadable.path}",
            f"it cannot be read: {unreadable.error}",
            "do transship, the operator and the CRDs have the same version?",
        )
        for listing in listings
        for unreadable in listing.unreadable
    ]


def node_findings(agents: Iterable[NodeAgent]) -> list[Finding]:
    """Agents that are not Ready, or not Healthy, with the message of the condition."""
    findings = []
    for agent in agents:
        name, conditions = agent.metadata.name, agent.status.conditions
        if not is_true(conditions, "Ready"):
            findings.append(
                _node_finding(name, _message(conditions, "Ready", otherwise="not Ready"))
            )
        if any(c.type == "Healthy" for c in conditions) and not is_true(conditions, "Healthy"):
            findings.append(
                _node_finding(name, _message(conditions, "Healthy", otherwise="not Healthy"))
            )
    return findings


def journal_findings(answers: Mapping[str, AgentAnswer]) -> list[Finding]:
    """Records that an agent has put into quarantine."""
    return [
        Finding(
            f"node {node}, container {record.container}",
            f"its record is in quarantine: {record.reason}: {record.message}",
            f"look at {record.file} there, remove it, and restart the agent",
        )
        for node, answer in answers.items()
        for record in answer.node.quarantined
    ]


def leftover_findings(answers: Mapping[str, AgentAnswer]) -> list[Finding]:
    """What is left of containers without a record; the agent removes what does not run."""
    return [
        Finding(
            f"node {node}, container {leftover.container}",
            f"no record owns its {', '.join(leftover.what)}"
            + (", and one of its programs runs" if leftover.alive else ""),
            "end the program there if nobody needs it: the agent never does"
            if leftover.alive
            else "the agent removes it within minutes",
        )
        for node, answer in answers.items()
        for leftover in answer.node.leftovers
    ]


def container_findings(
    placements: Listing[ContainerPlacement],
    containers: Mapping[str, tuple[ContainerReport, ...]],
    *,
    complete: bool,
) -> list[Finding]:
    """Containers without a placement, with two owners, or with none.

    `complete` says that every agent answered; otherwise a missing container proves nothing.
    """
    by_uid = {placement.metadata.uid: placement for placement in placements.resources}
    owners: dict[str, list[tuple[str, ContainerReport]]] = {}
    findings = []
    for node, reports in containers.items():
        for report in reports:
            if report.record in OWNING:
                owners.setdefault(report.id, []).append((node, report))
            if report.id not in placements.uids:
                findings.append(_without_placement(node, report))
    for uid, placement in by_uid.items():
        findings += _ownership_findings(placement, owners.get(uid, []), complete=complete)
    return findings


def orphan_findings(
    migrations: Iterable[ContainerMigration], placements: Listing[ContainerPlacement]
) -> list[Finding]:
    """Unfinished migrations whose placement is gone."""
    known = placements.uids
    return [
        Finding(_name(migration), "it moves a placement that is gone", "is the operator running?")
        for migration in migrations
        if not is_finished(migration) and migration.spec.placement_uid not in known
    ]


def overdue_findings(
    migrations: Iterable[ContainerMigration],
    placements: Listing[ContainerPlacement],
    *,
    now: datetime,
) -> list[Finding]:
    """Migrations beyond their deadline. Those without a placement are orphans instead."""
    known = placements.uids
    return [
        Finding(
            _name(migration),
            f"it is beyond its deadline (still {migration.status.phase or 'new'})",
            "see the logs of both agents and of the operator",
        )
        for migration in migrations
        if not is_finished(migration)
        and migration.spec.placement_uid in known
        and _age(migration, now=now) > _allowed(migration)
    ]


def deletion_findings(resources: Iterable[Resource], *, now: datetime) -> list[Finding]:
    """Deleted resources that still exist, because nobody removes the finalizer."""
    return [
        Finding(
            _name(resource),
            f"it was deleted at {resource.metadata.deletion_timestamp:%H:%M} UTC and still exists",
            "is the operator running, and does the node of its container answer?",
        )
        for resource in resources
        if resource.metadata.deletion_timestamp is not None
        and resource.metadata.finalizers
        and now - resource.metadata.deletion_timestamp > MARGIN
    ]


def address_findings(
    pools: Listing[AddressPool], placements: Listing[ContainerPlacement]
) -> list[Finding]:
    """Addresses without a placement, shared addresses, and addresses that no pool allocated."""
    findings, allocated = [], set()
    for pool in pools.resources:
        for allocation in pool.status.allocations:
            allocated.add((allocation.address, allocation.uid))
            if allocation.uid not in placements.uids:
                findings.append(_unowned_address(pool, allocation))
    users = Counter(p.status.address for p in placements.resources if p.status.address is not None)
    for placement in placements.resources:
        name, address = _name(placement), placement.status.address
        if address is None:
            continue
        if users[address] > 1:
            problem = f"another placement has {address} as well"
            findings.append(Finding(name, problem, "please report this: it is a bug"))
        if (address, placement.metadata.uid) not in allocated and not pools.unreadable:
            problem = f"no pool has allocated its address {address}"
            findings.append(Finding(name, problem, "was a pool's status edited by hand?"))
    return findings


def _unowned_address(pool: AddressPool, allocation: Allocation) -> Finding:
    owner = f"{allocation.namespace}/{allocation.name}"
    return Finding(
        f"addresspool/{pool.metadata.name}",
        f"{allocation.address} belongs to {owner}, which is gone",
        "is the operator running? It releases such addresses",
    )


def _ownership_findings(
    placement: ContainerPlacement, owners: list[tuple[str, ContainerReport]], *, complete: bool
) -> list[Finding]:
    subject, status = _name(placement), placement.status
    if len(owners) > 1:
        claims = " and ".join(f"{node} (epoch {report.epoch})" for node, report in owners)
        problem = f"owned by {claims}; its status says {_recorded(status)}"
        return [Finding(subject, problem, Reason.OWNER_DISPUTED.hint)]
    if not owners:
        if status.node is None or not complete:
            return []
        return [
            Finding(subject, f"no node has it; its status says {status.node}", "see its events")
        ]
    [(node, report)] = owners
    if status.node is not None and node != status.node:
        problem = f"{node} has it; its status says {status.node}"
        return [Finding(subject, problem, f"is the operator running? {Reason.OWNER_DISPUTED.hint}")]
    if status.epoch and report.epoch != status.epoch:
        problem = f"{node} has it as epoch {report.epoch}; its status says {status.epoch}"
        return [Finding(subject, problem, "is the operator running?")]
    return []


def _recorded(status: PlacementStatus) -> str:
    return "nobody" if status.node is None else f"{status.node} (epoch {status.epoch})"


def _without_placement(node: str, report: ContainerReport) -> Finding:
    return Finding(
        f"{report.namespace}/{report.name}",
        f"node {node} has it ({report.record}), but there is no such placement",
        "nothing removes it automatically: inspect it on the node, then delete it there",
    )


def _node_finding(name: str, problem: str) -> Finding:
    return Finding(f"node {name}", problem, f"kubectl describe nagent {name}")


def _message(conditions: Iterable[Condition], kind: str, *, otherwise: str) -> str:
    return next((c.message for c in conditions if c.type == kind), otherwise)


def _allowed(migration: ContainerMigration) -> timedelta:
    return timedelta(seconds=migration.spec.settings.deadline) + MARGIN


def _age(resource: Resource, *, now: datetime) -> timedelta:
    created = resource.metadata.creation_timestamp
    return timedelta(0) if created is None else now - created


def _name(resource: Resource) -> str:
    return f"{resource.metadata.namespace}/{resource.metadata.name}"
