"""The contents of a placement's conditions Ready, Migratable and Reconciling.

Ready is about the running container, on whatever node. Reconciling is about the way to the spec and
is present only while true, as kstatus expects.
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
    """What a condition says: its status, reason and message."""

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
    """As ready as before: a blackout does not take the container out of service."""
    if report.ready:
        return ConditionContent(Status.TRUE, Reason.MIGRATION_IN_PROGRESS, "being handed over")
    message = "being handed over, and not ready meanwhile"
    return ConditionContent(Status.FALSE, Reason.MIGRATION_IN_PROGRESS, message)


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
    """Whether the container can be moved live from where it is, as far as is known."""
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
    if obstacles := [each for each in report.obstacles if each.concerns(strategy)]:
        first, more = obstacles[0], len(obstacles) - 1
        message = f"{first.message}; and {more} more" if more else first.message
        message = f"{message} ({first.hint})" if first.hint else message
        return ConditionContent(Status.FALSE, first.reason, message)
    return ConditionContent(Status.TRUE, Reason.MIGRATABLE, Reason.MIGRATABLE.meaning)


def progress(
    observed: ObservedPlacement, decision: Decision, report: ContainerReport | None
) -> ConditionContent | None:
    """What is still to do to reach the spec. None: nothing, or it cannot be reached."""
    if observed.deleting:
        obstacle = decision.obstacle
        message = obstacle.text if obstacle is not None else Reason.DELETING.meaning
        return ConditionContent(Status.TRUE, Reason.DELETING, message)
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
        message = f"ending what a migration left on {decision.step.node}"
        return ConditionContent(Status.TRUE, Reason.MIGRATION_IN_PROGRESS, message)
    if not isinstance(decision.step, Wait) or report is None:
        return ConditionContent(Status.TRUE, Reason.STARTING, Reason.STARTING.meaning)
    if report.record == RecordState.RUNNING and report.run in {RunState.CREATING, RunState.ABSENT}:
        return ConditionContent(Status.TRUE, report.reason or Reason.STARTING, _message_of(report))
    return None
