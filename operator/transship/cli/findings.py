"""What the doctor makes of resources and of what the agents say: pure, each check by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from transship.agentapi.containers import ContainerReport
from transship.agentapi.node import NodeReport
from transship.api.address_pool import AddressPool
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
"""Beyond what a thing may take; the clocks of this machine and the API server's may differ too."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    subject: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Told:
    """What one agent said of itself and its containers."""

    node: NodeReport
    containers: tuple[ContainerReport, ...] = ()


def unreadable_findings(*listings: Listing[Any]) -> list[Finding]:
    """Objects that this version cannot make anything of; the operator leaves them alone."""
    return [
        Finding(
            f"{each.kind} {each.path}",
            f"it cannot be read: {each.error}",
            "is this version of transship, and the operator's, the one that its CRD is of?",
        )
        for listing in listings
        for each in listing.unreadable
    ]


def node_findings(agents: Iterable[NodeAgent]) -> list[Finding]:
    """Agents that are not Ready, or not Healthy, with what they say themselves."""
    found = []
    for agent in agents:
        name, conditions = agent.metadata.name, agent.status.conditions
        if not is_true(conditions, "Ready"):
            found.append(_of_node(name, _message(conditions, "Ready", otherwise="not Ready")))
        if any(c.type == "Healthy" for c in conditions) and not is_true(conditions, "Healthy"):
            found.append(_of_node(name, _message(conditions, "Healthy", otherwise="not Healthy")))
    return found


def journal_findings(told: Mapping[str, Told]) -> list[Finding]:
    """Records that an agent does not obey."""
    return [
        Finding(
            f"node {node}, container {each.container}",
            f"its record is in quarantine: {each.reason}: {each.message}",
            f"look at {each.file} there, remove it, and restart the agent",
        )
        for node, said in told.items()
        for each in said.node.quarantined
    ]


def leftover_findings(told: Mapping[str, Told]) -> list[Finding]:
    """What the janitors would remove, and what they leave to a person."""
    return [
        Finding(
            f"node {node}, container {each.container}",
            f"no record owns its {', '.join(each.what)}"
            + (", and a program of it runs" if each.alive else ""),
            "end the program there if it is not wanted: the agent never does"
            if each.alive else "the agent removes it within minutes",
        )
        for node, said in told.items()
        for each in said.node.leftovers
    ]  # fmt: skip


def container_findings(
    placements: Listing[ContainerPlacement],
    told: Mapping[str, tuple[ContainerReport, ...]],
    *,
    complete: bool,
) -> list[Finding]:
    """Containers without a placement, twice owned, or nowhere; complete: every agent answered."""
    by_uid = {placement.metadata.uid: placement for placement in placements.resources}
    owners: dict[str, list[tuple[str, ContainerReport]]] = {}
    found = []
    for node, held in told.items():
        for report in held:
            if report.record in OWNING:
                owners.setdefault(report.id, []).append((node, report))
            if report.id not in placements.uids:
                found.append(_without_placement(node, report))
    for uid, placement in by_uid.items():
        found += _of_placement(placement, owners.get(uid, []), complete=complete)
    return found


def stray_findings(
    migrations: Iterable[ContainerMigration], placements: Listing[ContainerPlacement]
) -> list[Finding]:
    """Moves of nothing."""
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
    """Moves that should have ended long ago, those of nothing left out: see stray_findings."""
    known = placements.uids
    return [
        Finding(
            _name(migration),
            f"it has no end (still {migration.status.phase or 'new'})",
            "see both agents' and the operator's log",
        )
        for migration in migrations
        if not is_finished(migration)
        and migration.spec.placement_uid in known
        and _age(migration, now=now) > _allowed(migration)
    ]


def deletion_findings(resources: Iterable[Resource], *, now: datetime) -> list[Finding]:
    """Deleted, and still there: nobody takes the finalizer away."""
    return [
        Finding(
            _name(each),
            f"it was deleted at {each.metadata.deletion_timestamp:%H:%M} UTC, and is still there",
            "is the operator running, and does the node of its container answer?",
        )
        for each in resources
        if each.metadata.deletion_timestamp is not None
        and each.metadata.finalizers
        and now - each.metadata.deletion_timestamp > MARGIN
    ]


def address_findings(
    pools: Listing[AddressPool], placements: Listing[ContainerPlacement]
) -> list[Finding]:
    """Addresses of nobody, of two, and addresses that no pool has given out."""
    found, given = [], set()
    for pool in pools.resources:
        for each in pool.status.allocations:
            given.add((each.address, each.uid))
            if each.uid not in placements.uids:
                found.append(Finding(f"addresspool/{pool.metadata.name}",
                    f"{each.address} belongs to {each.namespace}/{each.name}, which is gone",
                    "is the operator running? it gives such addresses back"))  # fmt: skip
    used = Counter(p.status.address for p in placements.resources if p.status.address is not None)
    for placement in placements.resources:
        address = placement.status.address
        if address is None:
            continue
        if used[address] > 1:
            found.append(Finding(_name(placement), f"another placement has {address} as well",
                                 "report this: it must not be"))  # fmt: skip
        if (address, placement.metadata.uid) not in given and not pools.unreadable:
            found.append(Finding(_name(placement), f"no pool has given it its address {address}",
                                 "was a pool's status edited by hand?"))  # fmt: skip
    return found


def _of_placement(
    placement: ContainerPlacement, owners: list[tuple[str, ContainerReport]], *, complete: bool
) -> list[Finding]:
    subject, status = _name(placement), placement.status
    if len(owners) > 1:
        claims = " and ".join(f"{node} (epoch {report.epoch})" for node, report in owners)
        return [Finding(subject, f"owned by {claims}; its status says {_recorded(status)}",
                        Reason.OWNER_DISPUTED.hint)]  # fmt: skip
    if not owners:
        if status.node is None or not complete:
            return []
        return [Finding(subject, f"no node has it; its status says {status.node}",
                        "see its events")]  # fmt: skip
    [(node, report)] = owners
    if status.node is not None and node != status.node:
        return [Finding(subject, f"{node} has it; its status says {status.node}",
                        f"is the operator running? {Reason.OWNER_DISPUTED.hint}")]  # fmt: skip
    if status.epoch and report.epoch != status.epoch:
        return [Finding(subject, f"{node} has it as epoch {report.epoch}; "
                        f"its status says {status.epoch}", "is the operator running?")]  # fmt: skip
    return []


def _recorded(status: PlacementStatus) -> str:
    return "nobody" if status.node is None else f"{status.node} (epoch {status.epoch})"


def _without_placement(node: str, report: ContainerReport) -> Finding:
    return Finding(
        f"{report.namespace}/{report.name}",
        f"node {node} has it ({report.record}), but there is no such placement",
        "none is safe by itself: delete it on the node after a look at it",
    )


def _of_node(name: str, problem: str) -> Finding:
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
