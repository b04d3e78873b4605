"""The next step to have the container on the node where the spec wants it."""

from __future__ import annotations

from datetime import datetime

from transship.agentapi.states import RecordState, RunState
from transship.api.migration import ContainerMigration, StepName
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.controller.migration.history import (
    Migrations,
    backoff_limit,
    failures,
    failures_by_node,
    next_attempt,
    next_attempt_time,
)
from transship.controller.node.requests import demand_of
from transship.controller.placement.cleanup import clean_up
from transship.controller.placement.owner import Owner, copy_at
from transship.controller.placement.ownership import BLOCKED_SECONDS, SILENCE_POLL_SECONDS
from transship.controller.placement.scheduling import entrance, wanted_node
from transship.controller.placement.steps import (
    Decision,
    Move,
    ObservedPlacement,
    Wait,
)

# events wake the loop; this is for what no event reports
STEADY_SECONDS = 30.0
STARTING_POLL_SECONDS = 0.2


def locate(observed: ObservedPlacement, owner: Owner) -> Decision:
    """Move the container to the node that the spec wants, or say why not yet."""
    placement = observed.placement
    failed = failures(observed.migrations, placement, epoch=owner.epoch)
    asked = demand_of(placement)
    wanted = wanted_node(
        placement.spec,
        nodes=observed.nodes,
        present=owner.node,
        failures=failures_by_node(failed),
        wanted=asked,
    )
    if isinstance(wanted, Obstacle):
        return Decision(Wait(BLOCKED_SECONDS), wanted)
    if wanted == owner.node:
        return Decision(Wait(_poll_seconds(observed, owner)), wanted=wanted)
    refusal = entrance(wanted, nodes=observed.nodes, wanted=asked) or _forbidden(
        observed, wanted, failed
    )
    if refusal is not None:
        return Decision(Wait(BLOCKED_SECONDS), refusal, wanted)
    if failed and (known_obstacle := _known_obstacle(observed, owner, wanted)) is not None:
        return Decision(Wait(BLOCKED_SECONDS), known_obstacle, wanted)
    pause = next_attempt_time(failed)
    if pause is not None and observed.now < pause:
        return _back_off(failed, pause, wanted, now=observed.now)
    if (cleanup := clean_up(observed, {wanted})) is not None:
        return cleanup
    if full := {owner.node, wanted} & observed.full_nodes:
        return Decision(Wait(BLOCKED_SECONDS), _no_free_place(full), wanted)
    attempt = next_attempt(observed.migrations, epoch=owner.epoch)
    return Decision(Move(owner.node, wanted, owner.epoch, attempt), wanted=wanted)


def _known_obstacle(observed: ObservedPlacement, owner: Owner, wanted: str) -> Obstacle | None:
    """The obstacle that the owner's agent still reports after a failure: no new try before."""
    copy = copy_at(observed.reported_copies, owner.node)
    if copy is None:
        return None
    strategy = observed.placement.spec.migration.strategy
    for reported in copy.report.obstacles:
        if reported.concerns(strategy):
            message = f"the move to {wanted} waits: {reported.message}"
            return Obstacle(reported.reason, message, reported.hint)
    return None


def _no_free_place(nodes: set[str]) -> Obstacle:
    names = " and ".join(sorted(nodes))
    return obstacle(
        Reason.MIGRATION_PENDING, f"{names} already take part in as many moves as they may"
    )


def _forbidden(observed: ObservedPlacement, wanted: str, failed: Migrations) -> Obstacle | None:
    placement = observed.placement
    if observed.status.cancelled_generation == placement.metadata.generation:
        return obstacle(
            Reason.MIGRATION_CANCELLED,
            f"the move to {wanted} was cancelled by deleting its migration",
            hint="set spec.targetNode back and to the target again to move it after all",
            final=True,
        )
    if failed and (final_obstacle := _repeated_failure(failed[-1], wanted)) is not None:
        return final_obstacle
    limit = backoff_limit(placement.spec.migration)
    if len(failed) <= limit:
        return None
    last = failed[-1].status
    return obstacle(
        Reason.BACKOFF_LIMIT_EXCEEDED,
        f"{len(failed)} moves to {wanted} failed (backoffLimit {limit}), the last one: "
        f"{last.reason}: {last.message}",
        final=True,
    )


def _repeated_failure(failed: ContainerMigration, wanted: str) -> Obstacle | None:
    """A failure that only the freeze can detect, so that another try would fail alike.

    A failure that the agent can detect earlier is waited for instead (see `_known_obstacle`).
    """
    status = failed.status
    froze = any(step.name is StepName.FREEZE for step in status.steps)
    if status.reason != Reason.STATE_TOO_LARGE or not froze:
        return None
    hint = f"{status.hint or Reason.STATE_TOO_LARGE.hint}; then edit the placement's spec"
    message = f"the move to {wanted} failed and is not tried again: {status.message}"
    return obstacle(Reason.STATE_TOO_LARGE, message, hint=hint, final=True)


def _back_off(failed: Migrations, pause: datetime, wanted: str, *, now: datetime) -> Decision:
    last, seconds = failed[-1].status, (pause - now).total_seconds()
    why = Obstacle(
        last.reason or Reason.MIGRATION_FAILED,
        f"the move to {wanted} failed {len(failed)} times, the next attempt follows at "
        f"{pause:%H:%M:%S} UTC: {last.message}",
        last.hint or "",
    )
    return Decision(Wait(max(0.05, seconds)), why, wanted)


def _poll_seconds(observed: ObservedPlacement, owner: Owner) -> float:
    """Poll often while the container starts or a migration has left something, else seldom."""
    # a held copy that is left over may wait for its source for days
    left = [copy for copy in observed.reported_copies if copy.report.record != RecordState.HELD]
    if any(copy.report.migration is not None for copy in left):
        return STARTING_POLL_SECONDS
    copy = copy_at(observed.reported_copies, owner.node)
    if copy is None:
        return SILENCE_POLL_SECONDS
    report = copy.report
    starting = report.record == RecordState.RUNNING and report.run in {
        RunState.CREATING,
        RunState.ABSENT,
    }
    return STARTING_POLL_SECONDS if starting else STEADY_SECONDS
