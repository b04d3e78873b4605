"""What a placement's status says, derived in one place at the end of each pass.

Ready tells of the running container, wherever it is. Reconciling and Stalled tell of the way to the
spec and are there only while true: kstatus reads them so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transship.agentapi.containers import ContainerReport
from transship.agentapi.states import RecordState, RunState
from transship.api.conditions import Condition, Status, condition, find, with_condition, without
from transship.api.migration import ContainerMigration
from transship.api.obstacle import Obstacle
from transship.api.placement import (
    ContainerStatus,
    CurrentMigration,
    DesiredState,
    LastMigration,
    PlacementPhase,
    PlacementStatus,
)
from transship.api.reasons import Reason
from transship.controller.migration.history import has_succeeded
from transship.controller.node.nodes import named
from transship.controller.placement.owner import fenced_copies, sighting_at
from transship.controller.placement.ownership import dispute
from transship.controller.placement.steps import Claim, Decision, Order, Seen, Tidy, Wait

OWNER_DISPUTED = "OwnerDisputed"
"""The condition that says which agents claim a container against the record."""

_PHASES_OF_RUNS = {
    RunState.RUNNING: PlacementPhase.RUNNING,
    RunState.FROZEN: PlacementPhase.FROZEN,
}


NOT_PROBED_YET = "its readiness or startup probe has not succeeded yet"


@dataclass(frozen=True)
class Verdict:
    """One condition's content."""

    status: Status
    reason: str
    message: str = ""


def observed_status(seen: Seen, decision: Decision) -> PlacementStatus:
    """The whole status after a pass, made anew from what was seen."""
    owner = seen.owner
    report = _report(seen)
    status = seen.status.model_copy(
        update={
            "observed_generation": _observed_generation(seen),
            "node": owner.node if owner is not None else None,
            "epoch": owner.epoch if owner is not None else 0,
            "container": _container(seen, report),
            "image_digest": (report.image_digest if report else None) or seen.status.image_digest,
            "fenced_copies": fenced_copies(seen.status, seen.migrations),
            "migration": _current(seen.moving, seen.status.migration),
            "last_migration": _last(seen) or seen.status.last_migration,
        }
    )
    ready = readiness(seen, report, decision.obstacle)
    status = _with(status, "Ready", ready, seen=seen)
    status = _with(status, "Migratable", migratability(seen, report), seen=seen)
    status = _with(status, "Reconciling", progress(seen, decision, report), seen=seen)
    stalled = decision.obstacle if decision.obstacle and decision.obstacle.final else None
    said = Verdict(Status.TRUE, stalled.reason, stalled.text) if stalled is not None else None
    status = _with(status, "Stalled", said, seen=seen)
    status = _with(status, OWNER_DISPUTED, _dispute(seen), seen=seen)
    return status.model_copy(
        update={"phase": phase_of(seen, report), "reason": reason_of(status.conditions)}
    )


def _observed_generation(seen: Seen) -> int:
    """Left empty while the record of the owner may be lost: an empty one is how that is known."""
    if seen.owner is None and not seen.fresh:
        return seen.status.observed_generation
    return seen.placement.metadata.generation


def _dispute(seen: Seen) -> Verdict | None:
    found = dispute(seen)
    return None if found is None else Verdict(Status.TRUE, found.reason, found.text)


def reason_of(conditions: Sequence[Condition]) -> str:
    """One reason for people: what is in the way of the spec comes before what runs meanwhile."""
    found = (find(conditions, kind) for kind in ("Stalled", "Reconciling", "Ready"))
    return next((each.reason for each in found if each is not None), "")


def readiness(
    seen: Seen, report: ContainerReport | None, obstacle: Obstacle | None = None
) -> Verdict:
    """Whether the container can do its work now. obstacle: what is in the way of the spec."""
    owner = seen.owner
    if owner is None and obstacle is not None:
        return Verdict(Status.FALSE, obstacle.reason, f"not placed yet: {obstacle.text}")
    if owner is None:
        return Verdict(Status.FALSE, Reason.STARTING, "the container has not been placed yet")
    if report is None:
        if seen.silent(owner.node):
            return Verdict(Status.UNKNOWN, Reason.AGENT_UNREACHABLE,
                           f"the agent of node {owner.node} does not answer")  # fmt: skip
        return Verdict(Status.FALSE, Reason.STARTING, f"being started on {owner.node}")
    if _is_handed_over(seen, report):
        return _handed_over(report)
    if report.record == RecordState.STOPPED:
        return _stopped(seen, report)
    return _running(seen, report)


def _is_handed_over(seen: Seen, report: ContainerReport) -> bool:
    """Between the freeze on the source and the resume on the target, both of which answer."""
    if seen.moving is None or seen.silent(seen.moving.spec.target_node):
        return False
    if report.record in {RecordState.FROZEN, RecordState.RELEASED}:
        return True
    return report.run == RunState.FROZEN and seen.placement.spec.state != DesiredState.FROZEN


def _handed_over(report: ContainerReport) -> Verdict:
    """A blackout is no reason to take it out of service: it is as ready as it was before."""
    if report.ready:
        return Verdict(Status.TRUE, Reason.MIGRATION_IN_PROGRESS, "being handed over")
    said = "being handed over, and not ready meanwhile"
    return Verdict(Status.FALSE, Reason.MIGRATION_IN_PROGRESS, said)


def _stopped(seen: Seen, report: ContainerReport) -> Verdict:
    if seen.placement.spec.state == DesiredState.STOPPED:
        return Verdict(Status.FALSE, Reason.CONTAINER_STOPPED, Reason.CONTAINER_STOPPED.meaning)
    code = report.last_exit.exit_code if report.last_exit is not None else None
    ended = f"it ended with exit code {code}" if code is not None else "it has ended"
    message = report.message or f"{ended} and is not restarted by its restartPolicy"
    return Verdict(Status.FALSE, report.reason or Reason.CONTAINER_EXITED, message)


def _running(seen: Seen, report: ContainerReport) -> Verdict:
    match report.run:
        case RunState.FROZEN:
            return Verdict(Status.FALSE, Reason.CONTAINER_FROZEN, Reason.CONTAINER_FROZEN.meaning)
        case RunState.RUNNING if report.ready:
            return Verdict(Status.TRUE, Reason.CONTAINER_READY, _why_ready(seen))
        case RunState.RUNNING:
            reason = report.reason or Reason.CONTAINER_NOT_READY
            return Verdict(Status.FALSE, reason, report.message or NOT_PROBED_YET)
        case _:
            return Verdict(Status.FALSE, report.reason or Reason.STARTING, _told(report))


def _why_ready(seen: Seen) -> str:
    if seen.placement.spec.container.readiness_probe is None:
        return "the container runs; it has no readiness probe"
    return "the container runs and its readiness probe succeeds"


def _told(report: ContainerReport) -> str:
    return f"{report.message} ({report.hint})" if report.hint else report.message


def migratability(seen: Seen, report: ContainerReport | None) -> Verdict:
    """Whether anything known speaks against moving the container from where it is."""
    owner = seen.owner
    node = named(seen.nodes, owner.node) if owner is not None else None
    if report is None or node is None:
        return Verdict(Status.UNKNOWN, Reason.UNKNOWN, Reason.UNKNOWN.meaning)
    test = node.agent.status.self_test
    if test is not None and not test.passed:
        return Verdict(Status.FALSE, Reason.SELF_TEST_FAILED,
                       f"the self-test of node {node.name} failed: {test.message}")  # fmt: skip
    strategy = seen.placement.spec.migration.strategy
    if found := [each for each in report.obstacles if each.concerns(strategy)]:
        first, more = found[0], len(found) - 1
        message = f"{first.message}; and {more} more" if more else first.message
        said = f"{message} ({first.hint})" if first.hint else message
        return Verdict(Status.FALSE, first.reason, said)
    return Verdict(Status.TRUE, Reason.MIGRATABLE, Reason.MIGRATABLE.meaning)


def progress(seen: Seen, decision: Decision, report: ContainerReport | None) -> Verdict | None:
    """What is still to be done to get to the spec; None when nothing is, or nothing will be."""
    if seen.ending:
        held = decision.obstacle
        said = held.text if held is not None else Reason.DELETING.meaning
        return Verdict(Status.TRUE, Reason.DELETING, said)
    if (why := decision.obstacle) is not None:
        return None if why.final else Verdict(Status.TRUE, why.reason, why.text)
    moving = seen.moving
    if moving is not None:
        route = f"from {moving.spec.source_node} to {moving.spec.target_node}"
        return Verdict(
            Status.TRUE, Reason.MIGRATION_IN_PROGRESS, f"{route}, see {moving.metadata.name}"
        )
    if isinstance(decision.step, Tidy):
        said = f"ending what a migration left on {decision.step.node}"
        return Verdict(Status.TRUE, Reason.MIGRATION_IN_PROGRESS, said)
    if not isinstance(decision.step, Wait) or report is None:
        return Verdict(Status.TRUE, Reason.STARTING, Reason.STARTING.meaning)
    if report.record == RecordState.RUNNING and report.run in {RunState.CREATING, RunState.ABSENT}:
        return Verdict(Status.TRUE, report.reason or Reason.STARTING, _told(report))
    return None


def phase_of(seen: Seen, report: ContainerReport | None) -> PlacementPhase:
    """One word for people."""
    if seen.ending:
        return PlacementPhase.TERMINATING
    owner = seen.owner
    if owner is None:
        return PlacementPhase.PENDING
    if seen.moving is not None:
        return PlacementPhase.MIGRATING
    return _phase_there(seen, report, silent=seen.silent(owner.node))


def _phase_there(seen: Seen, report: ContainerReport | None, *, silent: bool) -> PlacementPhase:
    if report is None:
        return PlacementPhase.UNKNOWN if silent else PlacementPhase.STARTING
    if report.record == RecordState.STOPPED:
        return _phase_of_stopped(seen, report)
    return _PHASES_OF_RUNS.get(report.run, PlacementPhase.STARTING)


def _phase_of_stopped(seen: Seen, report: ContainerReport) -> PlacementPhase:
    wanted = seen.placement.spec.state == DesiredState.STOPPED
    code = report.last_exit.exit_code if report.last_exit is not None else 0
    return PlacementPhase.STOPPED if wanted or code == 0 else PlacementPhase.FAILED


def _with(
    status: PlacementStatus, kind: str, said: Verdict | None, *, seen: Seen
) -> PlacementStatus:
    if said is None:
        conditions = without(status.conditions, kind)
    else:
        conditions = with_condition(status.conditions, condition(
            kind,
            said.status,
            reason=said.reason,
            message=said.message,
            generation=seen.placement.metadata.generation,
            now=seen.now,
        ))  # fmt: skip
    return status.model_copy(update={"conditions": conditions})


def _report(seen: Seen) -> ContainerReport | None:
    owner = seen.owner
    sighting = sighting_at(seen.sightings, owner.node) if owner is not None else None
    return sighting.report if sighting is not None else None


def _container(seen: Seen, report: ContainerReport | None) -> ContainerStatus | None:
    previous = seen.status.container
    if report is None:
        return previous
    return ContainerStatus(
        id=report.id,
        order_digest=previous.order_digest if previous is not None else "",
        start_time=report.start_time,
        restarts=report.restarts,
        last_exit=report.last_exit,
    )


def claimed(status: PlacementStatus, claim: Claim, seen: Seen) -> PlacementStatus:
    """With another owner, that was asked for nothing yet."""
    copies = fenced_copies(status, seen.migrations, more=claim.fenced)
    owner = {"node": claim.node, "epoch": claim.epoch, "fenced_copies": copies}
    return status.model_copy(update=owner)


def with_order(status: PlacementStatus, order: Order, *, id: str) -> PlacementStatus:
    """Note that the agent has accepted an order."""
    container = status.container or ContainerStatus(id=id)
    noted = container.model_copy(update={"order_digest": order.digest})
    return status.model_copy(update={"container": noted})


def _current(
    moving: ContainerMigration | None, previous: CurrentMigration | None
) -> CurrentMigration | None:
    if moving is None:
        return None
    status, name = moving.status, moving.metadata.name
    known = previous.percent if previous is not None and previous.name == name else 0
    lasting = [step for step in status.steps if step.milliseconds is None] or status.steps
    return CurrentMigration(
        name=name,
        step=lasting[-1].name if lasting else (status.phase or ""),
        percent=max(known, status.percent),
    )


def _last(seen: Seen) -> LastMigration | None:
    """The newest move that succeeded."""
    done = [m for m in seen.migrations if has_succeeded(m)]
    newest = max(done, key=lambda m: (m.spec.epoch, m.spec.attempt), default=None)
    if newest is None or newest.status.strategy is None:
        return None
    return LastMigration(
        name=newest.metadata.name,
        from_=newest.spec.source_node,
        to=newest.spec.target_node,
        strategy=newest.status.strategy,
        blackout_milliseconds=newest.status.blackout_milliseconds,
        total_milliseconds=newest.status.total_milliseconds,
        bytes=newest.status.bytes,
    )
