"""Whether a running migration is to be given up, and why."""

from __future__ import annotations

from collections.abc import Sequence

from transship.api.migration import ContainerMigration
from transship.api.obstacle import obstacle
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.controller.migration.steps import GiveUp, Outcome
from transship.controller.node.nodes import Node
from transship.controller.placement.scheduling import wants


def reason_to_give_up(
    migration: ContainerMigration,
    placement: ContainerPlacement | None,
    *,
    nodes: Sequence[Node],
    running_seconds: float,
) -> GiveUp | None:
    """A user's wish comes before the deadline. placement: None when it is gone.

    running_seconds: for how long this process has driven the migration, by its own clock. It is
    never compared with times that another machine has written.
    """
    spec = migration.spec
    if placement is None or placement.metadata.uid != spec.placement_uid:
        return _cancelled(Reason.MIGRATION_CANCELLED, "the placement is gone")
    if placement.metadata.deletion_timestamp is not None:
        return _cancelled(Reason.MIGRATION_CANCELLED, "the placement is being deleted")
    if not wants(placement.spec, spec.target_node, nodes=nodes):
        wanted = placement.spec.target_node or "chosen by spec.nodeSelector"
        return _cancelled(
            Reason.MIGRATION_SUPERSEDED,
            f"the placement's target is no longer {spec.target_node}: it is {wanted}",
        )
    if migration.metadata.deletion_timestamp is not None:
        return _cancelled(Reason.MIGRATION_CANCELLED, "the migration was deleted")
    allowed = spec.settings.deadline
    if running_seconds > allowed:
        return GiveUp(
            Outcome.FAILED,
            obstacle(Reason.DEADLINE_EXCEEDED, f"not done within deadlineSeconds ({allowed} s)"),
        )
    return None


def cancellation_is_unrecorded(
    placement: ContainerPlacement, migration: ContainerMigration, *, nodes: Sequence[Node]
) -> bool:
    """Whether the placement still has to record that a user cancelled by deleting its migration."""
    if placement.metadata.deletion_timestamp is not None:
        return False
    if placement.status.cancelled_generation == placement.metadata.generation:
        return False
    return wants(placement.spec, migration.spec.target_node, nodes=nodes)


def _cancelled(reason: Reason, message: str) -> GiveUp:
    return GiveUp(Outcome.CANCELLED, obstacle(reason, message))
