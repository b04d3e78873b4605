"""What keeps placements from being what their specs say, by the operator's word: pure.

What goes on as it should (a start, a move that waits for its turn) is left alone for some minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from transship.api.conditions import Condition, Status, find, is_true
from transship.api.container import RestartPolicy
from transship.api.placement import ContainerPlacement, DesiredState, PlacementPhase
from transship.api.reasons import Reason
from transship.cli.findings import MARGIN, Finding

PASSING = {
    Reason.STARTING,
    Reason.PULLING_IMAGE,
    Reason.MIGRATION_PENDING,
    Reason.MIGRATION_IN_PROGRESS,
    Reason.AWAITING_MEMORY,
    Reason.DELETING,
}
"""Reasons of what takes its time."""
WISHED = {
    DesiredState.STOPPED: Reason.CONTAINER_STOPPED,
    DesiredState.FROZEN: Reason.CONTAINER_FROZEN,
}
"""Why a container is not Ready, where its spec wants that."""
CRASHES = 2
CRASHED_WITHIN = timedelta(minutes=10)
"""Back-offs last 5 minutes at most; whoever has run for 10 is forgiven, as by the kubelet."""


def placement_findings(placements: Iterable[ContainerPlacement], *, now: datetime) -> list[Finding]:
    """One for each placement that is not what its spec says, with the first thing to be mended."""
    judged = ((each, _problem(each, now=now)) for each in placements)
    return [_finding(placement, *problem) for placement, problem in judged if problem is not None]


def _problem(placement: ContainerPlacement, *, now: datetime) -> tuple[str, str] | None:
    """Reason and message; a deleted placement is not asked for anything any more."""
    if placement.metadata.deletion_timestamp is not None:
        return None
    for judge in (_unseen, _unmet, _crashing, _not_ready):
        if (found := judge(placement, now)) is not None:
            return found
    return None


def _unseen(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    seen, wanted = placement.status.observed_generation, placement.metadata.generation
    if seen >= wanted:
        return None
    return "", f"the operator has not taken up generation {wanted}, but {seen or 'none'}"


def _unmet(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    conditions = placement.status.conditions
    for kind in ("Stalled", "Reconciling"):
        found = find(conditions, kind)
        if found is not None and found.status == Status.TRUE and not _passing(found, now=now):
            return found.reason, found.message
    return None


def _crashing(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    """It runs between two crashes, as far as one can know."""
    container, running = placement.status.container, is_true(placement.status.conditions, "Ready")
    if not running or container is None or container.last_exit is None:
        return None
    last = container.last_exit
    if container.restarts < CRASHES or now - last.time > CRASHED_WITHIN:
        return None
    return (
        Reason.CONTAINER_RESTARTED,
        f"it was started again {container.restarts} times; it last ended at {last.time:%H:%M:%S}"
        f" UTC with exit code {last.exit_code} ({last.reason})",
    )


def _not_ready(placement: ContainerPlacement, now: datetime) -> tuple[str, str] | None:
    status, spec = placement.status, placement.spec
    ready = find(status.conditions, "Ready")
    if ready is None or ready.status == Status.TRUE or _passing(ready, now=now):
        return None
    if ready.reason == WISHED.get(spec.state):
        return None
    completed = spec.container.restart_policy is not RestartPolicy.ALWAYS
    if completed and status.phase == PlacementPhase.STOPPED:
        return None
    return ready.reason, ready.message


def _passing(found: Condition, *, now: datetime) -> bool:
    return found.reason in PASSING and now - found.last_transition_time <= MARGIN


def _finding(placement: ContainerPlacement, reason: str, message: str) -> Finding:
    """The table's hint is the remedy; messages have it at their end in brackets."""
    meta = placement.metadata
    known = next((each for each in Reason if each == reason), None)
    look = f"kubectl describe placement {meta.name} --namespace {meta.namespace}"
    remedy = (known.hint if known is not None else "is the operator running?") or look
    told = message.removesuffix(f" ({remedy})")
    problem = f"{reason}: {told}" if reason else told
    return Finding(f"{meta.namespace}/{meta.name}", problem, remedy)
