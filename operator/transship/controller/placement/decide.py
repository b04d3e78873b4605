"""The next step of a placement: get an address, choose a node, order, move, or end.

A move itself is a migration's matter (see controller.migration.decide):
here it is only begun, and waited for.
Nothing is started on a second node because the first one is silent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from transship.agentapi.states import RecordState, RunState
from transship.api.migration import ContainerMigration, StepName
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import NetworkMode
from transship.api.reasons import Reason
from transship.controller.migration.history import (
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
from transship.controller.node.requests import demand_of
from transship.controller.placement import ownership
from transship.controller.placement.owner import Owner, sighting_at
from transship.controller.placement.ownership import BLOCKED_SECONDS, SILENCE_POLL_SECONDS
from transship.controller.placement.scheduling import entrance, wanted_node, wants
from transship.controller.placement.steps import (
    Allocate,
    Cancel,
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

STEADY_SECONDS = 30.0  # events wake the loop; this is for what no event tells
STARTING_POLL_SECONDS = 0.2
ENDING_POLL_SECONDS = 0.2
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
        return ownership.first(seen)
    if (cancelled := _newly_cancelled(seen)) is not None:
        return Decision(NoteCancel(cancelled))
    moving = seen.moving
    if moving is not None:
        return Decision(Wait(STEADY_SECONDS), wanted=moving.spec.target_node)
    return _settled(seen, owner)


def _settled(seen: Seen, owner: Owner) -> Decision:
    """No move is under way. What other nodes say holds up nothing that the owner is to do."""
    decision = (
        ownership.change(seen, owner)
        or _tidy(seen, {owner.node})
        or _hold(seen, owner)
        or _locate(seen, owner)
    )
    if not isinstance(decision.step, Wait):
        return decision
    left = _tidy(seen, {s.node for s in seen.sightings})
    return decision if left is None else replace(decision, step=left.step)


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


def _tidy(seen: Seen, nodes: Collection[str]) -> Decision | None:
    """What finished migrations left on agents that were not reachable at their end."""
    busy = {m.metadata.uid for m in seen.migrations if not _over_for_a_while(m, now=seen.now)}
    for sighting in seen.sightings:
        report = sighting.report
        if sighting.node not in nodes or report.migration is None or report.migration in busy:
            continue
        if report.record == RecordState.RELEASED and not _has_successor(seen):
            continue
        return Decision(Tidy(sighting.node, report.migration, report.record))
    return None


def _has_successor(seen: Seen) -> bool:
    """Whether whom a frozen copy was released to runs, or wants nothing of it any more."""
    owner = seen.owner
    sighting = sighting_at(seen.sightings, owner.node) if owner is not None else None
    if owner is not None and owner.node in seen.fenced:
        return True
    return sighting is not None and sighting.owns


def _over_for_a_while(migration: ContainerMigration, *, now: datetime) -> bool:
    ended = migration.status.completion_time
    return is_finished(migration) and (
        ended is None or now - ended > timedelta(seconds=TIDY_AFTER_SECONDS)
    )


def _hold(seen: Seen, owner: Owner) -> Decision | None:
    """Have the owner do what the spec says, where it is."""
    sighting = sighting_at(seen.sightings, owner.node)
    if sighting is None and seen.silent(owner.node):
        return ownership.replace_silent(seen, owner)
    container = seen.status.container
    told = container.order_digest if container is not None else ""
    if any(claim.node == owner.node for claim in seen.claims):
        return ownership.disputed(seen)
    behind = sighting is None or (sighting.owns and sighting.report.epoch < owner.epoch)
    if behind and (bar := ownership.bar_to_start(seen)) is not None:
        return bar
    forgotten = sighting is None or sighting.report.reason == Reason.AWAITING_ORDER
    if behind or forgotten or told != seen.digest:
        return Decision(Order(owner.node, owner.epoch, seen.digest))
    return None


def _left_behind(node: str, move: str) -> Obstacle:
    return obstacle(
        Reason.AGENT_UNREACHABLE,
        f"the agent of node {node} does not answer; it may still have what {move} left there",
        hint=Reason.NODE_LOST.hint,
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
    if (left := _tidy(seen, {wanted})) is not None:
        return left
    if crowded := {owner.node, wanted} & seen.full:
        return Decision(Wait(BLOCKED_SECONDS), _crowded(crowded), wanted)
    attempt = next_attempt(seen.migrations, epoch=owner.epoch)
    return Decision(Move(owner.node, wanted, owner.epoch, attempt), wanted=wanted)


def _hindered(seen: Seen, owner: Owner, wanted: str) -> Obstacle | None:
    """A second try would be in vain while the owner's agent still sees why the first one failed."""
    sighting = sighting_at(seen.sightings, owner.node)
    if sighting is None:
        return None
    for each in sighting.report.obstacles:
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
            hint="set spec.targetNode back and to the target again to move it after all",
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
    if owner is None and (unknown := ownership.unknown_owner(seen)) is not None:
        return unknown
    if owner is not None and seen.silent(owner.node) and owner.node not in seen.fenced:
        return Decision(Wait(SILENCE_POLL_SECONDS), ownership.lost(owner.node))
    for node, move in unsettled_nodes(seen.migrations).items():
        if seen.silent(node) and node not in seen.fenced:
            return Decision(Wait(SILENCE_POLL_SECONDS), _left_behind(node, move))
    if seen.status.address is not None:
        return Decision(Release())
    return Decision(Done())
