"""The contents of a placement's conditions Ready, Migratable and Reconciling.

Ready tells of the running container, wherever it is. Reconciling tells of the way to the spec and
is there only while true: kstatus reads it so.
"""

from __future__ import annotations

from dataclasses import dataclass

from transship.agentapi.containers import ContainerReport
from transship.agentapi.states import RecordState, RunState
from transship.api.conditions import Status
from transship.api.obstacle import Obstacle
from transship.api.placement import (
    DesiredState,
)
from transship.api.reasons import Reason
from transship.controller.node.nodes import named
from transship.controller.placement.steps import (
    CleanUp,
    Decision,
    ObservedPlacement,
    Wait,
)

NOT_PROBED_YET = "its readiness or startup probe has not succeeded yet"


@dataclass(frozen=True)
class ConditionContent:
    """One condition's content."""

    status: Status
    reason: str
    message: str = ""


def readiness(
    observed: ObservedPlacement, report: ContainerReport | None, obstacle: Obstacle | None = None
) -> ConditionContent:
    """Whether the container can do its work now. obstacle: what is in the way of the spec."""
    owner = observed.owner
    if owner is None and obstacle is not None:
        return ConditionContent(Status.FALSE, obstacle.reason, f"not placed yet: {obstacle.text}")
    if owner is None:
        return ConditionContent(
            Status.FALSE, Reason.STARTING, "the container has not been placed yet"
        )
    if report is None:
        if observed.silent(owner.node):
            return ConditionContent(
                Status.UNKNOWN,
                Reason.AGENT_UNREACHABLE,
                f"the agent of node {owner.node} does not answer",
            )
        return ConditionContent(Status.FALSE, Reason.STARTING, f"being started on {owner.node}")
    if _is_handed_over(observed, report):
        return _handed_over(report)
    if report.record == RecordState.STOPPED:
        return _stopped(observed, report)
    return _running(observed, report)


def _is_handed_over(observed: ObservedPlacement, report: ContainerReport) -> bool:
    """Between the freeze on the source and the resume on the target, both of which answer."""
    if observed.current_migration is None or observed.silent(
        observed.current_migration.spec.target_node
    ):
        return False
    if report.record in {RecordState.FROZEN, RecordState.RELEASED}:
        return True
    return report.run == RunState.FROZEN and observed.placement.spec.state != DesiredState.FROZEN


def _handed_over(report: ContainerReport) -> ConditionContent:
    """A blackout is no reason to take it out of service: it is as ready as it was before."""
    if report.ready:
        return ConditionContent(Status.TRUE, Reason.MIGRATION_IN_PROGRESS, "being handed over")
    said = "being handed over, and not ready meanwhile"
    return ConditionContent(Status.FALSE, Reason.MIGRATION_IN_PROGRESS, said)


def _stopped(observed: ObservedPlacement, report: ContainerReport) -> ConditionContent:
    if observed.placement.spec.state == DesiredState.STOPPED:
        return ConditionContent(
            Status.FALSE, Reason.CONTAINER_STOPPED, Reason.CONTAINER_STOPPED.meaning
        )
    code = report.last_exit.exit_code if report.last_exit is not None else None
    ended = f"it ended with exit code {code}" if code is not None else "it has ended"
    message = report.message or f"{ended} and is not restarted by its restartPolicy"
    return ConditionContent(Status.FALSE, report.reason or Reason.CONTAINER_EXITED, message)


def _running(observed: ObservedPlacement, report: ContainerReport) -> ConditionContent:
    match report.run:
        case RunState.FROZEN:
            return ConditionContent(
                Status.FALSE, Reason.CONTAINER_FROZEN, Reason.CONTAINER_FROZEN.meaning
            )
        case RunState.RUNNING if report.ready:
            return ConditionContent(Status.TRUE, Reason.CONTAINER_READY, _why_ready(observed))
        case RunState.RUNNING:
            reason = report.reason or Reason.CONTAINER_NOT_READY
            return ConditionContent(Status.FALSE, reason, report.message or NOT_PROBED_YET)
        case _:
            return ConditionContent(
                Status.FALSE, report.reason or Reason.STARTING, _message_of(report)
            )


def _why_ready(observed: ObservedPlacement) -> str:
    if observed.placement.spec.container.readiness_probe is None:
        return "the container runs; it has no readiness probe"
    return "the container runs and its readiness probe succeeds"


def _message_of(report: ContainerReport) -> str:
    return f"{report.message} ({report.hint})" if report.hint else report.message


def migratability(observed: ObservedPlacement, report: ContainerReport | None) -> ConditionContent:
    """Whether anything known speaks against moving the container from where it is."""
    owner = observed.owner
    node = named(observed.nodes, owner.node) if owner is not None else None
    if report is None or node is None:
        return ConditionContent(Status.UNKNOWN, Reason.UNKNOWN, Reason.UNKNOWN.meaning)
    test = node.agent.status.self_test
    if test is not None and not test.passed:
        return ConditionContent(
            Status.FALSE,
            Reason.SELF_TEST_FAILED,
            f"the self-test of node {node.name} failed: {test.message}",
        )
    strategy = observed.placement.spec.migration.strategy
    if found := [each for each in report.obstacles if each.concerns(strategy)]:
        first, more = found[0], len(found) - 1
        message = f"{first.message}; and {more} more" if more else first.message
        said = f"{message} ({first.hint})" if first.hint else message
        return ConditionContent(Status.FALSE, first.reason, said)
    return ConditionContent(Status.TRUE, Reason.MIGRATABLE, Reason.MIGRATABLE.meaning)


def progress(
    observed: ObservedPlacement, decision: Decision, report: ContainerReport | None
) -> ConditionContent | None:
    """What is still to be done to get to the spec; None when nothing is, or nothing will be."""
    if observed.deleting:
        held = decision.obstacle
        said = held.text if held is not None else Reason.DELETING.meaning
        return ConditionContent(Status.TRUE, Reason.DELETING, said)
    if (why := decision.obstacle) is not None:
        return None if why.final else ConditionContent(Status.TRUE, why.reason, why.text)
    current_migration = observed.current_migration
    if current_migration is not None:
        route = f"from {current_migration.spec.source_node} to {current_migration.spec.target_node}"
        return ConditionContent(
            Status.TRUE,
            Reason.MIGRATION_IN_PROGRESS,
            f"{route}, see {current_migration.metadata.name}",
        )
    if isinstance(decision.step, CleanUp):
        said = f"ending what a migration left on {decision.step.node}"
        return ConditionContent(Status.TRUE, Reason.MIGRATION_IN_PROGRESS, said)
    if not isinstance(decision.step, Wait) or report is None:
        return ConditionContent(Status.TRUE, Reason.STARTING, Reason.STARTING.meaning)
    if report.record == RecordState.RUNNING and report.run in {RunState.CREATING, RunState.ABSENT}:
        return ConditionContent(Status.TRUE, report.reason or Reason.STARTING, _message_of(report))
    return None
