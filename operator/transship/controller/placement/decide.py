"""The next step of a placement: get an address, choose a node, order, move, or delete.

A move is only begun and waited for here; its steps are decided in controller.migration.decide.
Nothing is started on a second node because the first one is silent.
"""

from __future__ import annotations

from dataclasses import replace

from transship.api.placement import NetworkMode
from transship.api.reasons import Reason
from transship.controller.migration.history import (
    is_finished,
    was_cancelled,
)
from transship.controller.placement import ownership
from transship.controller.placement.cleanup import clean_up, delete
from transship.controller.placement.moves import STEADY_SECONDS, locate
from transship.controller.placement.owner import Owner, copy_at
from transship.controller.placement.scheduling import wants
from transship.controller.placement.steps import (
    Allocate,
    Decision,
    ObservedPlacement,
    Order,
    RecordCancellation,
    Wait,
)


def decide(observed: ObservedPlacement) -> Decision:
    """Choose the one step to take now."""
    return delete(observed) if observed.deleting else _live(observed)


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
    """No migration runs. What other nodes report delays nothing that the owner has to do."""
    decision = (
        ownership.follow_release(observed, owner)
        or clean_up(observed, {owner.node})
        or _order_owner(observed, owner)
        or locate(observed, owner)
    )
    if not isinstance(decision.step, Wait):
        return decision
    cleanup = clean_up(observed, {s.node for s in observed.reported_copies})
    return decision if cleanup is None else replace(decision, step=cleanup.step)


def _newly_cancelled(observed: ObservedPlacement) -> int | None:
    """The generation whose move a user cancelled by deleting the migration."""
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


def _order_owner(observed: ObservedPlacement, owner: Owner) -> Decision | None:
    """Order the owner what the spec says, where its agent does not have that order yet."""
    copy = copy_at(observed.reported_copies, owner.node)
    if copy is None and observed.silent(owner.node):
        return ownership.replace_silent(observed, owner)
    container = observed.status.container
    ordered_digest = container.order_digest if container is not None else ""
    if any(claim.node == owner.node for claim in observed.claims):
        return ownership.disputed(observed)
    behind = copy is None or (copy.owns and copy.report.epoch < owner.epoch)
    forgotten = copy is None or copy.report.reason == Reason.AWAITING_ORDER
    if behind or forgotten:
        if (obstacle_to_start := ownership.why_not_to_start(observed)) is not None:
            return obstacle_to_start
        return Decision(Order(owner.node, owner.epoch, observed.digest))
    if ordered_digest != observed.digest:
        return Decision(Order(owner.node, owner.epoch, observed.digest))
    return None
