"""The next step to remove something: what a finished migration left, or the whole placement."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
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
from transship.controller.placement.owner import ReportedCopy, copy_at
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
        # else it may be released yet, and its agent asks the source by itself
        if report.record == RecordState.HELD and not _is_outlived(observed, copy):
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


def _is_outlived(observed: ObservedPlacement, held: ReportedCopy) -> bool:
    """Whether the container runs elsewhere with a later epoch: this copy is never released."""
    owner = observed.owner
    copy = copy_at(observed.reported_copies, owner.node) if owner is not None else None
    if owner is None or copy is None or not copy.owns:
        return False
    return copy.report.epoch == owner.epoch > held.report.epoch


def _over_for_a_while(migration: ContainerMigration, *, now: datetime) -> bool:
    ended = migration.status.completion_time
    return is_finished(migration) and (
        ended is None or now - ended > timedelta(seconds=CLEAN_UP_AFTER_SECONDS)
    )


def _left_behind(node: str, left_by: str) -> Obstacle:
    return obstacle(
        Reason.AGENT_UNREACHABLE,
        f"the agent of node {node} does not answer; it may still have what {left_by} left there",
        hint=Reason.NODE_LOST.hint,
    )


def delete(observed: ObservedPlacement) -> Decision:
    """Delete the placement: first its migration, then its container, then its address."""
    current_migration = observed.current_migration
    if current_migration is not None:
        if current_migration.metadata.deletion_timestamp is None:
            return Decision(Cancel(current_migration.metadata.name))
        return Decision(Wait(DELETING_POLL_SECONDS))
    awaited, others = _copies_to_delete(observed)
    if awaited:
        step, *beside = (*map(_removal, awaited), *map(_removal, others))
        return Decision(step, beside=tuple(beside))
    return replace(_delete_for_good(observed), beside=tuple(map(_removal, others)))


def _copies_to_delete(
    observed: ObservedPlacement,
) -> tuple[list[ReportedCopy], list[ReportedCopy]]:
    """The copies whose end is waited for, the owner's first, and those that were never recorded."""
    owner = observed.owner
    if owner is None:
        return list(observed.reported_copies), []
    copies = sorted(observed.reported_copies, key=lambda copy: copy.node != owner.node)
    recorded = observed.recorded_nodes
    awaited = [copy for copy in copies if copy.node in recorded]
    return awaited, [copy for copy in copies if copy.node not in recorded]


def _removal(copy: ReportedCopy) -> Remove | CleanUp:
    report = copy.report
    if report.migration is not None:
        return CleanUp(copy.node, report.migration, report.record)
    return Remove(copy.node, report.epoch)


def _delete_for_good(observed: ObservedPlacement) -> Decision:
    """No agent that answers has anything of it: free the address and end, or wait for others."""
    owner = observed.owner
    if owner is None and (waiting := ownership.owner_not_reported(observed)) is not None:
        return waiting
    if owner is not None and observed.silent(owner.node) and owner.node not in observed.fenced:
        return Decision(Wait(SILENCE_POLL_SECONDS), ownership.lost(owner.node))
    left = {copy.node: "the owner before it was fenced" for copy in observed.fenced_copies}
    for node, move in {**left, **unsettled_nodes(observed.migrations)}.items():
        if observed.silent(node) and node not in observed.fenced:
            return Decision(Wait(SILENCE_POLL_SECONDS), _left_behind(node, move))
    if observed.status.address is not None:
        return Decision(Release())
    return Decision(Done())
