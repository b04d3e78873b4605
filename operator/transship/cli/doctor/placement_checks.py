"""Checks of placements against their specs, by the conditions that the operator writes. Pure.

Normal progress (a start, a move in the queue) is no finding in its first minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from transship.api.conditions import Condition, Status, find, is_true
from transship.api.container import RestartPolicy
from transship.api.placement import ContainerPlacement, DesiredState, PlacementPhase
from transship.api.reasons import Reason
from transship.cli.doctor.checks import MARGIN, Finding

IN_PROGRESS = {
    Reason.STARTING,
    Reason.PULLING_IMAGE,
    Reason.MIGRATION_PENDING,
    Reason.MIGRATION_IN_PROGRESS,
    Reason.AWAITING_MEMORY,
    Reason.DELETING,
}
"""Reasons that are no finding in the first minutes."""
REQUESTED = {
    DesiredState.STOPPED: Reason.CONTAINER_STOPPED,
    DesiredState.FROZEN: Reason.CONTAINER_FROZEN,
}
"""Reasons of not being Ready that the spec asks for."""
CRASHES = 2
CRASHED_WITHIN = timedelta(minutes=10)
"""As in the kubelet: back-off is 5 minutes at most, and is reset after 10 minutes of running."""


def placement_findings(placements: Iterable[ContainerPlacement], *, now: datetime) -> list[Finding]:
    """One finding per placement that differs from its spec: the first problem to solve."""
    checked = ((placement, _problem(placement, now=now)) for placement in placements)
    return [_finding(placement, *problem) for placement, problem in checked if problem is not None]


def _problem(placement: ContainerPlacement, *, now: datetime) -> tuple[str, str] | None:
    """Reason and message. A placement that is being deleted has no problem."""
    if placement.metadata.deletion_timestamp is not None:
        return None
    for check in (_not_observed, _not_reconciled, _crashing, _not_ready):
        if (problem := check(placement, now)) is not None:
            return problem
    return None


def _not_observed(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    observed, wanted = placement.status.observed_generation, placement.metadata.generation
    if observed >= wanted:
        return None
    return "", f"the operator has not observed generation {wanted}, only {observed or 'none'}"


def _not_reconciled(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    conditions = placement.status.conditions
    for kind in ("Stalled", "Reconciling"):
        condition = find(conditions, kind)
        if condition is None or condition.status != Status.TRUE:
            continue
        if not _in_progress(condition, now=now):
            return condition.reason, condition.message
    return None


def _crashing(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    """It runs now, but has crashed several times, and the last time was not long ago."""
    container, running = placement.status.container, is_true(placement.status.conditions, "Ready")
    if not running or container is None or container.last_exit is None:
        return None
    last = container.last_exit
    if container.restarts < CRASHES or now - last.time > CRASHED_WITHIN:
        return None
    return (
        Reason.CONTAINER_RESTARTED,
        f"it was restarted {container.restarts} times; it last ended at {last.time:%H:%M:%S}"
        f" UTC with exit code {last.exit_code} ({last.reason})",
    )


def _not_ready(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    status, spec = placement.status, placement.spec
    ready = find(status.conditions, "Ready")
    if ready is None or ready.status == Status.TRUE or _in_progress(ready, now=now):
        return None
    if ready.reason == REQUESTED.get(spec.state):
        return None
    completed = spec.container.restart_policy is not RestartPolicy.ALWAYS
    if completed and status.phase == PlacementPhase.STOPPED:
        return None
    return ready.reason, ready.message


def _in_progress(condition: Condition, *, now: datetime) -> bool:
    return condition.reason in IN_PROGRESS and now - condition.last_transition_time <= MARGIN


def _finding(placement: ContainerPlacement, reason: str, message: str) -> Finding:
    """The reason's hint is the remedy. Messages end with it in brackets, which is cut off here."""
    meta = placement.metadata
    known = next((entry for entry in Reason if entry == reason), None)
    describe = f"kubectl describe placement {meta.name} --namespace {meta.namespace}"
    remedy = (known.hint if known is not None else "is the operator running?") or describe
    text = message.removesuffix(f" ({remedy})")
    problem = f"{reason}: {text}" if reason else text
    return Finding(f"{meta.namespace}/{meta.name}", problem, remedy)
