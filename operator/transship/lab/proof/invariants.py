"""The invariants after a fault: one whole copy, no lost data, and a status that is true.

Each check reads the present state once and returns what is wrong. Where the lab needs time to
settle, `until_none` repeats a check. The fault tests and the soak share these checks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from transship.api.conditions import find, is_true
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.placement import ContainerPlacement, PlacementPhase
from transship.api.reasons import Reason
from transship.lab.proof.resources import LabResources
from transship.lab.proof.single_copy import nodes_with_copies
from transship.lab.proof.workload import Workload, query_witness
from transship.lab.state import LabState

POLL_SECONDS = 0.1
REPLY_POLL_SECONDS = 0.005
# so many replies in a row show that a connection works
REPLIES = 5
REPLIES_TIMEOUT_SECONDS = 0.5


def until_none(check: Callable[[], list[str]], *, seconds: float) -> list[str]:
    """Repeat a check until it finds nothing. At the deadline, return its last findings."""
    deadline = time.monotonic() + seconds
    while findings := check():
        if time.monotonic() > deadline:
            return findings
        time.sleep(POLL_SECONDS)
    return []


def violations(
    resources: LabResources, state: LabState, workload: Workload, *, node: str
) -> list[str]:
    """Every invariant of a container that has to run on this node, with no move under way."""
    placement = resources.placement(workload.name)
    if placement is None:
        return [f"placement {workload.name} is gone"]
    findings = [
        *unfinished_migrations(resources, workload),
        *_status_violations(placement, node=node),
    ]
    findings += [
        gap for migration in resources.migrations(workload.name) for gap in report_gaps(migration)
    ]
    if findings:
        return findings
    return [
        *_copy_violations(state, workload, node=node),
        *_connection_violations(workload),
        *_memory_violations(workload),
    ]


def unfinished_migrations(resources: LabResources, workload: Workload) -> list[str]:
    return [
        f"migration {m.metadata.name} is {m.status.phase}: {m.status.message or ''}"
        for m in resources.migrations(workload.name)
        if m.status.phase is None or not m.status.phase.finished
    ]


def remaining(resources: LabResources, workload: Workload) -> list[str]:
    """The resources of a deleted placement that still exist."""
    findings = [
        f"migration {m.metadata.name} does not go" for m in resources.migrations(workload.name)
    ]
    if resources.placement(workload.name) is not None:
        findings.append(f"placement {workload.name} does not go")
    return findings


def report_gaps(migration: ContainerMigration) -> Iterator[str]:
    """What the status of a finished migration fails to explain."""
    status, name = migration.status, migration.metadata.name
    summary = find(status.conditions, "Succeeded")
    succeeded = status.phase is MigrationPhase.SUCCEEDED
    if status.phase is None or not status.phase.finished:
        return
    if summary is None or (summary.status == "True") is not succeeded:
        yield f"migration {name} is {status.phase}, its condition says {summary}"
    if succeeded:
        return
    reason = next((known for known in Reason if known == status.reason), None)
    if reason is None:
        yield f"migration {name} ended for a reason that is in no table: {status.reason!r}"
        return
    if not status.message:
        yield f"migration {name} ended without a message ({reason})"
    if reason.hint and not status.hint:
        yield f"migration {name} ended without a hint ({reason})"


def _status_violations(placement: ContainerPlacement, *, node: str) -> Iterator[str]:
    name, status = placement.metadata.name, placement.status
    if status.node != node:
        yield f"{name}: its status says node {status.node}, not {node}"
    if status.phase is not PlacementPhase.RUNNING:
        yield f"{name} is {status.phase}"
    for kind, wanted in (("Ready", True), ("Reconciling", False), ("Stalled", False)):
        if is_true(status.conditions, kind) is not wanted:
            condition = find(status.conditions, kind)
            message = condition.message if condition else "no such condition"
            yield f"{name}: {kind} is not {wanted}: {message}"
    if status.migration is not None:
        yield f"{name}: its status still has migration {status.migration.name}"


def _copy_violations(state: LabState, workload: Workload, *, node: str) -> list[str]:
    nodes = nodes_with_copies(state, workload.container)
    if nodes == (node,):
        return []
    return [f"{workload.name} has processes on {' and '.join(nodes) or 'no node'}, not on {node}"]


def _connection_violations(workload: Workload) -> list[str]:
    """The client's one connection still works, unless the container was allowed to restart."""
    client = workload.client
    if client is None or (workload.may_restart and client.error):
        return []
    before, deadline = client.number, time.monotonic() + REPLIES_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if client.error:
            return (
                [] if workload.may_restart else [f"the client's connection broke: {client.error}"]
            )
        if client.number >= before + REPLIES:
            return []
        time.sleep(REPLY_POLL_SECONDS)
    return [] if workload.may_restart else ["the client's connection gets no replies"]


def _memory_violations(workload: Workload) -> list[str]:
    acknowledged = workload.last_acknowledged
    try:
        witness = query_witness(workload.address)
    except OSError as e:
        return [f"{workload.name} does not answer: {e}"]
    if witness.corruption:
        return [f"{workload.name} is corrupt: {witness.corruption}"]
    findings = []
    if witness.last_number < acknowledged:
        findings.append(
            f"{workload.name} acknowledged {acknowledged} and remembers {witness.last_number}"
        )
    if workload.run and witness.run != workload.run and not workload.may_restart:
        findings.append(f"{workload.name} was restarted")
    return findings
