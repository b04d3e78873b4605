"""What a placement's status says, derived in one place at the end of each pass.

Ready tells of the running container, wherever it is. Reconciling and Stalled tell of the way to the
spec and are there only while true: kstatus reads them so.
"""

from __future__ import annotations

from collections.abc import Sequence

from transship.agentapi.containers import ContainerReport
from transship.agentapi.states import RecordState, RunState
from transship.api.conditions import Condition, Status, condition, find, with_condition, without
from transship.api.migration import ContainerMigration
from transship.api.placement import (
    ContainerStatus,
    CurrentMigration,
    DesiredState,
    LastMigration,
    PlacementPhase,
    PlacementStatus,
)
from transship.controller.migration.history import has_succeeded
from transship.controller.placement.conditions import (
    ConditionContent,
    migratability,
    progress,
    readiness,
)
from transship.controller.placement.owner import copy_at, fenced_copies
from transship.controller.placement.ownership import dispute
from transship.controller.placement.steps import (
    Decision,
    ObservedPlacement,
    Order,
    RecordOwner,
)

OWNER_DISPUTED = "OwnerDisputed"
"""The condition that says which agents claim a container against the record."""

_PHASES_OF_RUNS = {
    RunState.RUNNING: PlacementPhase.RUNNING,
    RunState.FROZEN: PlacementPhase.FROZEN,
}


def observed_status(observed: ObservedPlacement, decision: Decision) -> PlacementStatus:
    """The whole status after a pass, derived anew from what was observed."""
    owner = observed.owner
    report = _report(observed)
    status = observed.status.model_copy(
        update={
            "observed_generation": observed.placement.metadata.generation,
            "node": owner.node if owner is not None else None,
            "epoch": owner.epoch if owner is not None else 0,
            "container": _container(observed, decision, report),
            "image_digest": (report.image_digest if report else None)
            or observed.status.image_digest,
            "fenced_copies": fenced_copies(observed.status, observed.migrations),
            "migration": _current(observed.current_migration, observed.status.migration),
            "last_migration": _last(observed) or observed.status.last_migration,
        }
    )
    ready = readiness(observed, report, decision.obstacle)
    status = _with(status, "Ready", ready, observed=observed)
    status = _with(status, "Migratable", migratability(observed, report), observed=observed)
    status = _with(status, "Reconciling", progress(observed, decision, report), observed=observed)
    stalled = decision.obstacle if decision.obstacle and decision.obstacle.final else None
    said = (
        ConditionContent(Status.TRUE, stalled.reason, stalled.text) if stalled is not None else None
    )
    status = _with(status, "Stalled", said, observed=observed)
    status = _with(status, OWNER_DISPUTED, _dispute(observed), observed=observed)
    return status.model_copy(
        update={"phase": phase_of(observed, report), "reason": reason_of(status.conditions)}
    )


def _dispute(observed: ObservedPlacement) -> ConditionContent | None:
    disputed = dispute(observed)
    if disputed is None:
        return None
    return ConditionContent(Status.TRUE, disputed.reason, disputed.text)


def reason_of(conditions: Sequence[Condition]) -> str:
    """The most important reason: what is in the way of the spec comes before readiness."""
    by_weight = (find(conditions, kind) for kind in ("Stalled", "Reconciling", "Ready"))
    return next((present.reason for present in by_weight if present is not None), "")


def phase_of(observed: ObservedPlacement, report: ContainerReport | None) -> PlacementPhase:
    """One word for people."""
    if observed.deleting:
        return PlacementPhase.TERMINATING
    owner = observed.owner
    if owner is None:
        return PlacementPhase.PENDING
    if observed.current_migration is not None:
        return PlacementPhase.MIGRATING
    return _phase_there(observed, report, silent=observed.silent(owner.node))


def _phase_there(
    observed: ObservedPlacement, report: ContainerReport | None, *, silent: bool
) -> PlacementPhase:
    if report is None:
        return PlacementPhase.UNKNOWN if silent else PlacementPhase.STARTING
    if report.record == RecordState.STOPPED:
        return _phase_of_stopped(observed, report)
    return _PHASES_OF_RUNS.get(report.run, PlacementPhase.STARTING)


def _phase_of_stopped(observed: ObservedPlacement, report: ContainerReport) -> PlacementPhase:
    wanted = observed.placement.spec.state == DesiredState.STOPPED
    code = report.last_exit.exit_code if report.last_exit is not None else 0
    return PlacementPhase.STOPPED if wanted or code == 0 else PlacementPhase.FAILED


def _with(
    status: PlacementStatus,
    kind: str,
    said: ConditionContent | None,
    *,
    observed: ObservedPlacement,
) -> PlacementStatus:
    if said is None:
        conditions = without(status.conditions, kind)
    else:
        conditions = with_condition(
            status.conditions,
            condition(
                kind,
                said.status,
                reason=said.reason,
                message=said.message,
                generation=observed.placement.metadata.generation,
                now=observed.now,
            ),
        )
    return status.model_copy(update={"conditions": conditions})


def _report(observed: ObservedPlacement) -> ContainerReport | None:
    owner = observed.owner
    copy = copy_at(observed.reported_copies, owner.node) if owner is not None else None
    return copy.report if copy is not None else None


def _container(
    observed: ObservedPlacement, decision: Decision, report: ContainerReport | None
) -> ContainerStatus | None:
    previous = observed.status.container
    if previous is not None:
        completed = _has_completed(observed, decision, report, before=previous)
        previous = previous.model_copy(update={"completed": completed})
    if report is None:
        return previous
    return ContainerStatus(
        id=report.id,
        order_digest=previous.order_digest if previous is not None else "",
        start_time=report.start_time,
        restarts=report.restarts,
        last_exit=report.last_exit,
        completed=previous is not None and previous.completed,
    )


def _has_completed(
    observed: ObservedPlacement,
    decision: Decision,
    report: ContainerReport | None,
    *,
    before: ContainerStatus,
) -> bool:
    """Whether the owner has ended it for good although the spec wants it to run.

    A report from before the owner's present order tells nothing, nor does one in a migration.
    """
    if observed.placement.spec.state == DesiredState.STOPPED:
        return False
    current = before.order_digest == observed.digest and not isinstance(decision.step, Order)
    if report is None or not current or report.migration is not None:
        return before.completed
    return report.record == RecordState.STOPPED


def with_owner(
    status: PlacementStatus, claim: RecordOwner, observed: ObservedPlacement
) -> PlacementStatus:
    """With another owner, that was asked for nothing yet."""
    copies = fenced_copies(status, observed.migrations, more=claim.fenced)
    owner = {"node": claim.node, "epoch": claim.epoch, "fenced_copies": copies}
    return status.model_copy(update=owner)


def with_order(status: PlacementStatus, order: Order, *, id: str) -> PlacementStatus:
    """Note that the agent has accepted an order."""
    container = status.container or ContainerStatus(id=id)
    noted = container.model_copy(update={"order_digest": order.digest})
    return status.model_copy(update={"container": noted})


def _current(
    current_migration: ContainerMigration | None, previous: CurrentMigration | None
) -> CurrentMigration | None:
    if current_migration is None:
        return None
    status, name = current_migration.status, current_migration.metadata.name
    reached = previous.percent if previous is not None and previous.name == name else 0
    lasting = [step for step in status.steps if step.milliseconds is None] or status.steps
    return CurrentMigration(
        name=name,
        step=lasting[-1].name if lasting else (status.phase or ""),
        percent=max(reached, status.percent),
    )


def _last(observed: ObservedPlacement) -> LastMigration | None:
    """The newest move that succeeded."""
    done = [m for m in observed.migrations if has_succeeded(m)]
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
