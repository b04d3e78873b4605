"""The next step to remove something: what a finished migration left, or the whole placement."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from transship.agentapi.states import RecordState
from transship.api.migration import ContainerMigration
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.controller.migration.history import (
    is_finished,
    unsettled_nodes,
)
from transship.controller.placement import ownership
from transship.controller.placement.owner import copy_at
from transship.controller.placement.ownership import SILENCE_POLL_SECONDS
from transship.controller.placement.steps import (
    Cancel,
    CleanUp,
    Decision,
    Done,
    ObservedPlacement,
    Release,
    Remove,
    Wait,
)

# a migration's own loop cleans up at once, and reports are up to a second old
CLEAN_UP_AFTER_SECONDS = 3.0
DELETING_POLL_SECONDS = 0.2


def clean_up(observed: ObservedPlacement, nodes: Collection[str]) -> Decision | None:
    """Remove what finished migrations, or a fencing, left on nodes whose agents answer again."""
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
    for copy in observed.superseded:
        if copy.node in nodes:
            return Decision(Remove(copy.node, copy.report.epoch))
    return None


def _has_successor(observed: ObservedPlacement) -> bool:
    """Whether the new owner has the container, so that the old frozen copy is needed no more."""
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


def _left_behind(node: str, move: str) -> Obstacle:
    return obstacle(
        Reason.AGENT_UNREACHABLE,
        f"the agent of node {node} does not answer; it may still have what {move} left there",
        hint=Reason.NODE_LOST.hint,
    )


def delete(observed: ObservedPlacement) -> Decision:
    """Delete the placement: first its migration, then its container, then its address."""
    current_migration = observed.current_migration
    if current_migration is not None:
        if current_migration.metadata.deletion_timestamp is None:
            return Decision(Cancel(current_migration.metadata.name))
        return Decision(Wait(DELETING_POLL_SECONDS))
    for copy in observed.reported_copies:
        report = copy.report
        if report.migration is not None:
            return Decision(CleanUp(copy.node, report.migration, report.record))
        return Decision(Remove(copy.node, report.epoch))
    return _delete_for_good(observed)


def _delete_for_good(observed: ObservedPlacement) -> Decision:
    """No agent that answers has anything of it: free the address and end, or wait for others."""
    owner = observed.owner
    if owner is None and (waiting := ownership.owner_not_reported(observed)) is not None:
        return waiting
    if owner is not None and observed.silent(owner.node) and owner.node not in observed.fenced:
        return Decision(Wait(SILENCE_POLL_SECONDS), ownership.lost(owner.node))
    for node, move in unsettled_nodes(observed.migrations).items():
        if observed.silent(node) and node not in observed.fenced:
            return Decision(Wait(SILENCE_POLL_SECONDS), _left_behind(node, move))
    if observed.status.address is not None:
        return Decision(Release())
    return Decision(Done())
