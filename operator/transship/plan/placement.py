"""The next step of a placement: get an address, choose a node, order, move, or end.

A move itself is a migration's matter (plan.migration): here it is only begun, and waited for.
Nothing is started on a second node because the first one is silent.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from transship.api.migration import ContainerMigration, StepName
from transship.api.placement import NetworkMode
from transship.api.reasons import Reason
from transship.plan.moves import (
    Migrations,
    backoff_limit,
    failures,
    failures_by_node,
    is_finished,
    next_attempt,
    next_attempt_time,
    unsettled_nodes,
    was_cancelled,
)
from transship.plan.obstacles import Obstacle, obstacle
from transship.plan.owner import Owner, sighting_at
from transship.plan.placement_steps import (
    Allocate,
    Cancel,
    Claim,
    Decision,
    Done,
    Move,
    NoteCancel,
    Order,
    Release,
    Remove,
    Seen,
    Tidy,
    Wait,
)
from transship.plan.requests import demand_of
from transship.plan.schedule import entrance, wanted_node, wants
from transship.protocol.states import RecordState, RunState

STEADY_SECONDS = 30.0  # events wake the loop; this is for what no event tells
STARTING_POLL_SECONDS = 0.2
ENDING_POLL_SECONDS = 0.2
BLOCKED_SECONDS = 10.0
SILENCE_POLL_SECONDS = 2.0
TIDY_AFTER_SECONDS = 3.0  # its own loop tidies at once, and sightings are up to a second old


def decide(seen: Seen) -> Decision:
    """Choose the one step to take now."""
    return _end(seen) if seen.ending else _live(seen)


def _live(seen: Seen) -> Decision:
    spec, status = seen.placement.spec, seen.status
    if spec.network.mode == NetworkMode.POOL and status.address is None:
        return Decision(Allocate())
    owner = seen.owner
    if owner is None:
        return _place(seen)
    if (cancelled := _newly_cancelled(seen)) is not None:
        return Decision(NoteCancel(cancelled))
    moving = seen.moving
    if moving is not None:
        return Decision(Wait(STEADY_SECONDS), wanted=moving.spec.target_node)
    return _tidy(seen) or _hold(seen, owner) or _locate(seen, owner)


def _place(seen: Seen) -> Decision:
    """The first node. It is claimed in the status before it is asked."""
    spec = seen.placement.spec
    asked = demand_of(seen.placement)
    wanted = wanted_node(spec, nodes=seen.nodes, present=None, wanted=asked)
    if isinstance(wanted, Obstacle):
        return Decision(Wait(BLOCKED_SECONDS), wanted)
    barred = entrance(wanted, nodes=seen.nodes, wanted=asked)
    if barred is not None:
        return Decision(Wait(BLOCKED_SECONDS), barred, wanted)
    return Decision(Claim(wanted), wanted=wanted)


def _newly_cancelled(seen: Seen) -> int | None:
    """A move that a user ended by deleting its migration, although the spec still wants it."""
    generation = seen.placement.metadata.generation
    if seen.status.cancelled_generation == generation:
        return None
    for migration in seen.migrations:
        if migration.metadata.deletion_timestamp is None:
            continue
        cancelled = not is_finished(migration) or was_cancelled(migration)
        if cancelled and wants(seen.placement.spec, migration.spec.target_node, nodes=seen.nodes):
            return generation
    return None


def _tidy(seen: Seen) -> Decision | None:
    """What finished migrations left on agents that were not reachable at their end."""
    busy = {m.metadata.uid for m in seen.migrations if not _over_for_a_while(m, now=seen.now)}
    for sighting in seen.sightings:
        report = sighting.report
        if report.migration is None or report.migration in busy:
            continue
        return Decision(Tidy(sighting.node, report.migration, report.record))
    return _superseded(seen)


def _superseded(seen: Seen) -> Decision | None:
    """A node that was declared gone has come back, and believes in what it had.

    Only what a later owner's own record says counts here, never a status that anybody can edit.
    """
    owners = [s for s in seen.sightings if s.owns and s.report.migration is None]
    newest = max(owners, key=lambda s: s.report.epoch, default=None)
    for sighting in owners:
        if newest is not None and sighting.report.epoch < newest.report.epoch:
            return Decision(Remove(sighting.node, sighting.report.epoch))
    return None


def _over_for_a_while(migration: ContainerMigration, *, now: datetime) -> bool:
    ended = migration.status.completion_time
    return is_finished(migration) and (
        ended is None or now - ended > timedelta(seconds=TIDY_AFTER_SECONDS)
    )


def _hold(seen: Seen, owner: Owner) -> Decision | None:
    """Have the owner do what the spec says, where it is."""
    sighting = sighting_at(seen.sightings, owner.node)
    if sighting is None and seen.silent(owner.node):
        return Decision(Wait(SILENCE_POLL_SECONDS), _lost(owner.node))
    container = seen.status.container
    told = container.order_digest if container is not None else ""
    forgotten = sighting is None or sighting.report.reason == Reason.AWAITING_ORDER
    if forgotten or told != seen.digest:
        return Decision(Order(owner.node, owner.epoch, seen.digest))
    return None


def _lost(node: str) -> Obstacle:
    return obstacle(
        Reason.NODE_LOST,
        f"the agent of node {node} does not answer; its container may still run, "
        "so it is not started elsewhere",
        hint="bring the node or its agent back",
    )


def _left_behind(node: str, move: str) -> Obstacle:
    return obstacle(
        Reason.AGENT_UNREACHABLE,
        f"the agent of node {node} does not answer; it may still have what {move} left there",
        hint="bring the node or its agent back, or delete its NodeAgent if it is gone for good",
    )


def _locate(seen: Seen, owner: Owner) -> Decision:
    """Bring the container to where it belongs."""
    placement = seen.placement
    failed = failures(seen.migrations, placement, epoch=owner.epoch)
    asked = demand_of(placement)
    wanted = wanted_node(
        placement.spec,
        nodes=seen.nodes,
        present=owner.node,
        failures=failures_by_node(failed),
        wanted=asked,
    )
    if isinstance(wanted, Obstacle):
        return Decision(Wait(BLOCKED_SECONDS), wanted)
    if wanted == owner.node:
        return Decision(Wait(_patience(seen, owner)), wanted=wanted)
    barred = entrance(wanted, nodes=seen.nodes, wanted=asked) or _forbidden(seen, wanted, failed)
    if barred is not None:
        return Decision(Wait(BLOCKED_SECONDS), barred, wanted)
    if failed and (hindered := _hindered(seen, owner, wanted)) is not None:
        return Decision(Wait(BLOCKED_SECONDS), hindered, wanted)
    pause = next_attempt_time(failed)
    if pause is not None and seen.now < pause:
        return _back_off(failed, pause, wanted, now=seen.now)
    if crowded := {owner.node, wanted} & seen.full:
        return Decision(Wait(BLOCKED_SECONDS), _crowded(crowded), wanted)
    attempt = next_attempt(seen.migrations, epoch=owner.epoch)
    return Decision(Move(owner.node, wanted, owner.epoch, attempt), wanted=wanted)


def _hindered(seen: Seen, owner: Owner, wanted: str) -> Obstacle | None:
    """A second try would be in vain while the owner's agent still sees why the first one failed."""
    sighting = sighting_at(seen.sightings, owner.node)
    if sighting is None:
        return None
    for each in sighting.report.hindrances:
        if not each.concerns(seen.placement.spec.migration.strategy):
            continue
        message = f"the move to {wanted} waits: {each.message}"
        return Obstacle(each.reason, message, each.hint)
    return None


def _crowded(nodes: set[str]) -> Obstacle:
    names = " and ".join(sorted(nodes))
    return obstacle(
        Reason.MIGRATION_PENDING, f"{names} already take part in as many moves as they may"
    )


def _forbidden(seen: Seen, wanted: str, failed: Migrations) -> Obstacle | None:
    placement = seen.placement
    if seen.status.cancelled_generation == placement.metadata.generation:
        return obstacle(
            Reason.MIGRATION_CANCELLED,
            f"the move to {wanted} was cancelled by deleting its migration",
            hint="edit spec.targetNode to move the container after all",
            final=True,
        )
    if failed and (vain := _in_vain(failed[-1], wanted)) is not None:
        return vain
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


def _in_vain(failed: ContainerMigration, wanted: str) -> Obstacle | None:
    """What only the freeze has shown would come out the same after every back-off.

    What is refused before it is waited for instead: the agent sees when it is gone.
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


def _patience(seen: Seen, owner: Owner) -> float:
    """Look often at what is about to run or to be tidied, seldom at a container that runs."""
    if any(each.report.migration is not None for each in seen.sightings):
        return STARTING_POLL_SECONDS
    sighting = sighting_at(seen.sightings, owner.node)
    if sighting is None:
        return SILENCE_POLL_SECONDS
    report = sighting.report
    starting = report.record == RecordState.RUNNING and report.run in {
        RunState.CREATING,
        RunState.ABSENT,
    }
    return STARTING_POLL_SECONDS if starting else STEADY_SECONDS


def _end(seen: Seen) -> Decision:
    """The placement is being deleted: first its move, then its container, then its address."""
    moving = seen.moving
    if moving is not None:
        if moving.metadata.deletion_timestamp is None:
            return Decision(Cancel(moving.metadata.name))
        return Decision(Wait(ENDING_POLL_SECONDS))
    for sighting in seen.sightings:
        report = sighting.report
        if report.migration is not None:
            return Decision(Tidy(sighting.node, report.migration, report.record))
        return Decision(Remove(sighting.node, report.epoch))
    return _end_for_good(seen)


def _end_for_good(seen: Seen) -> Decision:
    """No agent that answers has anything of it."""
    owner = seen.owner
    if owner is not None and seen.silent(owner.node) and owner.node not in seen.gone:
        return Decision(Wait(SILENCE_POLL_SECONDS), _lost(owner.node))
    for node, move in unsettled_nodes(seen.migrations).items():
        if seen.silent(node) and node not in seen.gone:
            return Decision(Wait(SILENCE_POLL_SECONDS), _left_behind(node, move))
    if seen.status.address is not None:
        return Decision(Release())
    return Decision(Done())
