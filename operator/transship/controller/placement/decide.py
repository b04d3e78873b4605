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
from transship.controller.placement.owner import Owner, copy_at
from transship.controller.placement.ownership import BLOCKED_SECONDS, SILENCE_POLL_SECONDS
from transship.controller.placement.scheduling import entrance, wanted_node, wants
from transship.controller.placement.steps import (
    Allocate,
    Cancel,
    CleanUp,
    Decision,
    Done,
    Move,
    ObservedPlacement,
    Order,
    RecordCancellation,
    Release,
    Remove,
    Wait,
)

STEADY_SECONDS = 30.0  # events wake the loop; this is for what no event tells
STARTING_POLL_SECONDS = 0.2
ENDING_POLL_SECONDS = 0.2
CLEAN_UP_AFTER_SECONDS = 3.0  # its own loop tidies at once, and sightings are up to a second old


def decide(observed: ObservedPlacement) -> Decision:
    """Choose the one step to take now."""
    return _end(observed) if observed.deleting else _live(observed)


def _live(observed: ObservedPlacement) -> Decision:
    spec, status = observed.placement.spec, observed.status
    if spec.network.mode == NetworkMode.POOL and status.address is None:
        return Decision(Allocate())
    owner = observed.owner
    if owner is None:
        return ownership.first(observed)
    if (cancelled := _newly_cancelled(observed)) is not None:
        return Decision(RecordCancellation(cancelled))
    current_migration = observed.current_migration
    if current_migration is not None:
        return Decision(Wait(STEADY_SECONDS), wanted=current_migration.spec.target_node)
    return _settled(observed, owner)


def _settled(observed: ObservedPlacement, owner: Owner) -> Decision:
    """No move is under way. What other nodes say holds up nothing that the owner is to do."""
    decision = (
        ownership.change(observed, owner)
        or _clean_up(observed, {owner.node})
        or _order_owner(observed, owner)
        or _locate(observed, owner)
    )
    if not isinstance(decision.step, Wait):
        return decision
    left = _clean_up(observed, {s.node for s in observed.reported_copies})
    return decision if left is None else replace(decision, step=left.step)


def _newly_cancelled(observed: ObservedPlacement) -> int | None:
    """A move that a user ended by deleting its migration, although the spec still wants it."""
    generation = observed.placement.metadata.generation
    if observed.status.cancelled_generation == generation:
        return None
    for migration in observed.migrations:
        if migration.metadata.deletion_timestamp is None:
            continue
        cancelled = not is_finished(migration) or was_cancelled(migration)
        if cancelled and wants(
            observed.placement.spec, migration.spec.target_node, nodes=observed.nodes
        ):
            return generation
    return None


def _clean_up(observed: ObservedPlacement, nodes: Collection[str]) -> Decision | None:
    """What finished migrations left on agents that were not reachable at their end."""
    busy = {
        m.metadata.uid for m in observed.migrations if not _over_for_a_while(m, now=observed.now)
    }
    for copy in observed.reported_copies:
        report = copy.report
        if copy.node not in nodes or report.migration is None or report.migration in busy:
            continue
        if report.record == RecordState.RELEASED and not _has_successor(observed):
            continue
        return Decision(CleanUp(copy.node, report.migration, report.record))
    return None


def _has_successor(observed: ObservedPlacement) -> bool:
    """Whether whom a frozen copy was released to runs, or wants nothing of it any more."""
    owner = observed.owner
    copy = copy_at(observed.reported_copies, owner.node) if owner is not None else None
    if owner is not None and owner.node in observed.fenced:
        return True
    return copy is not None and copy.owns


def _over_for_a_while(migration: ContainerMigration, *, now: datetime) -> bool:
    ended = migration.status.completion_time
    return is_finished(migration) and (
        ended is None or now - ended > timedelta(seconds=CLEAN_UP_AFTER_SECONDS)
    )


def _order_owner(observed: ObservedPlacement, owner: Owner) -> Decision | None:
    """Have the owner do what the spec says, where it is."""
    copy = copy_at(observed.reported_copies, owner.node)
    if copy is None and observed.silent(owner.node):
        return ownership.replace_silent(observed, owner)
    container = observed.status.container
    told = container.order_digest if container is not None else ""
    if any(claim.node == owner.node for claim in observed.claims):
        return ownership.disputed(observed)
    behind = copy is None or (copy.owns and copy.report.epoch < owner.epoch)
    if behind and (bar := ownership.bar_to_start(observed)) is not None:
        return bar
    forgotten = copy is None or copy.report.reason == Reason.AWAITING_ORDER
    if behind or forgotten or told != observed.digest:
        return Decision(Order(owner.node, owner.epoch, observed.digest))
    return None


def _left_behind(node: str, move: str) -> Obstacle:
    return obstacle(
        Reason.AGENT_UNREACHABLE,
        f"the agent of node {node} does not answer; it may still have what {move} left there",
        hint=Reason.NODE_LOST.hint,
    )


def _locate(observed: ObservedPlacement, owner: Owner) -> Decision:
    """Bring the container to where it belongs."""
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
    barred = entrance(wanted, nodes=observed.nodes, wanted=asked) or _forbidden(
        observed, wanted, failed
    )
    if barred is not None:
        return Decision(Wait(BLOCKED_SECONDS), barred, wanted)
    if failed and (hindered := _hindered(observed, owner, wanted)) is not None:
        return Decision(Wait(BLOCKED_SECONDS), hindered, wanted)
    pause = next_attempt_time(failed)
    if pause is not None and observed.now < pause:
        return _back_off(failed, pause, wanted, now=observed.now)
    if (left := _clean_up(observed, {wanted})) is not None:
        return left
    if crowded := {owner.node, wanted} & observed.full_nodes:
        return Decision(Wait(BLOCKED_SECONDS), _crowded(crowded), wanted)
    attempt = next_attempt(observed.migrations, epoch=owner.epoch)
    return Decision(Move(owner.node, wanted, owner.epoch, attempt), wanted=wanted)


def _hindered(observed: ObservedPlacement, owner: Owner, wanted: str) -> Obstacle | None:
    """A second try would be in vain while the owner's agent still sees why the first one failed."""
    copy = copy_at(observed.reported_copies, owner.node)
    if copy is None:
        return None
    for each in copy.report.obstacles:
        if not each.concerns(observed.placement.spec.migration.strategy):
            continue
        message = f"the move to {wanted} waits: {each.message}"
        return Obstacle(each.reason, message, each.hint)
    return None


def _crowded(nodes: set[str]) -> Obstacle:
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


def _poll_seconds(observed: ObservedPlacement, owner: Owner) -> float:
    """Look often at what is about to run or to be tidied, seldom at a container that runs."""
    if any(each.report.migration is not None for each in observed.reported_copies):
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


def _end(observed: ObservedPlacement) -> Decision:
    """The placement is being deleted: first its move, then its container, then its address."""
    current_migration = observed.current_migration
    if current_migration is not None:
        if current_migration.metadata.deletion_timestamp is None:
            return Decision(Cancel(current_migration.metadata.name))
        return Decision(Wait(ENDING_POLL_SECONDS))
    for copy in observed.reported_copies:
        report = copy.report
        if report.migration is not None:
            return Decision(CleanUp(copy.node, report.migration, report.record))
        return Decision(Remove(copy.node, report.epoch))
    return _end_for_good(observed)


def _end_for_good(observed: ObservedPlacement) -> Decision:
    """No agent that answers has anything of it."""
    owner = observed.owner
    if owner is None and (unreported_nodes := ownership.unknown_owner(observed)) is not None:
        return unreported_nodes
    if owner is not None and observed.silent(owner.node) and owner.node not in observed.fenced:
        return Decision(Wait(SILENCE_POLL_SECONDS), ownership.lost(owner.node))
    for node, move in unsettled_nodes(observed.migrations).items():
        if observed.silent(node) and node not in observed.fenced:
            return Decision(Wait(SILENCE_POLL_SECONDS), _left_behind(node, move))
    if observed.status.address is not None:
        return Decision(Release())
    return Decision(Done())
