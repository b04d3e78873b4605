"""Whose copy counts, and what does not change that."""

from __future__ import annotations

from fakes.resources import NOW, ended, migration, report
from transship.agentapi.states import RecordState, SideState
from transship.api.conditions import condition
from transship.api.migration import ContainerMigration, SideStatus
from transship.api.placement import FencedCopy, PlacementStatus
from transship.controller.migration.history import SOURCE_FENCED
from transship.controller.placement.owner import (
    Owner,
    ReportedCopy,
    claims_against,
    fenced_copies,
    next_epoch,
    owner_of,
    superseded,
)

A, B = Owner("node-a", 1), Owner("node-b", 2)
PLACED = PlacementStatus(node="node-a", epoch=1)


def under_way(source: str, target: str) -> ContainerMigration:
    made = migration()
    sides = {
        "source": SideStatus(node="node-a", state=source),
        "target": SideStatus(node="node-b", state=target),
    }
    return made.model_copy(update={"status": made.status.model_copy(update=sides)})


def fenced(made: ContainerMigration) -> ContainerMigration:
    noted = condition(SOURCE_FENCED, True, reason="NodeFenced", now=NOW)
    conditions = (*made.status.conditions, noted)
    status = made.status.model_copy(update={"conditions": conditions})
    return made.model_copy(update={"status": status})


def test_a_placement_is_where_its_status_or_its_last_move_says() -> None:
    assert owner_of(PlacementStatus(), migrations=()) is None
    assert owner_of(PLACED, migrations=()) == A
    assert owner_of(PLACED, migrations=(ended(migration(), good=True),)) == B
    assert owner_of(PLACED, migrations=(ended(migration(), good=False),)) == A


def test_any_migration_tells_of_its_source_when_the_status_is_lost() -> None:
    lost = PlacementStatus()
    assert owner_of(lost, migrations=(migration(),)) == A
    assert owner_of(lost, migrations=(ended(migration(), good=False),)) == A


def test_a_target_owns_once_both_sides_have_said_so() -> None:
    runs = SideState.RUNNING
    assert owner_of(PLACED, migrations=(under_way(SideState.COPYING, runs),)) == A
    assert owner_of(PLACED, migrations=(under_way(SideState.FROZEN, runs),)) == A
    assert owner_of(PLACED, migrations=(under_way(SideState.RELEASED, SideState.HELD),)) == A
    assert owner_of(PLACED, migrations=(under_way(SideState.RELEASED, runs),)) == B


def test_a_fence_that_was_written_down_stands_in_for_the_release() -> None:
    assert owner_of(PLACED, migrations=(fenced(under_way("Frozen", SideState.HELD)),)) == A
    assert owner_of(PLACED, migrations=(fenced(under_way("Frozen", SideState.RUNNING)),)) == B
    assert owner_of(PLACED, migrations=(fenced(ended(migration(), good=False)),)) == B


def test_only_the_record_and_a_running_move_permit_a_claim() -> None:
    claims = tuple(ReportedCopy(n, report(epoch=e)) for n, e in (("node-a", 1), ("node-b", 2)))
    wrong = (ReportedCopy("node-b", report(epoch=3)), ReportedCopy("node-a", report(epoch=9)))
    assert claims_against(A, claims, migrations=(migration(),)) == ()
    assert claims_against(A, claims, migrations=()) == claims[1:]
    assert claims_against(A, claims, migrations=(ended(migration(), good=False),)) == claims[1:]
    assert claims_against(A, wrong, migrations=(migration(),)) == wrong
    held = ReportedCopy("node-b", report(epoch=3, record=RecordState.HELD))
    assert claims_against(A, (held,), migrations=()) == ()


def test_an_owner_without_its_newest_epoch_claims_nothing() -> None:
    behind = ReportedCopy("node-b", report(epoch=1))
    assert claims_against(B, (behind,), migrations=()) == ()


def test_the_next_epoch_is_above_whatever_a_move_could_have_given() -> None:
    assert next_epoch(A, ()) == 2
    assert next_epoch(A, (ended(migration(), good=False),)) == 3


def test_only_what_a_fenced_node_had_is_superseded() -> None:
    old, new = ReportedCopy("node-a", report(epoch=1)), ReportedCopy("node-a", report(epoch=2))
    copies = (FencedCopy(node="node-a", epoch=1),)
    assert superseded(B, (old,), copies) == (old,)
    assert superseded(B, (old,), ()) == ()
    assert superseded(B, (new,), copies) == ()
    assert superseded(A, (old,), copies) == ()


def test_a_fenced_source_is_remembered_after_its_migration_is_pruned() -> None:
    noted = fenced_copies(PLACED, (fenced(ended(migration(), good=True)),))
    assert noted == (FencedCopy(node="node-a", epoch=1),)
    later = PLACED.model_copy(update={"fenced_copies": noted})
    assert fenced_copies(later, ()) == noted
    more = (FencedCopy(node="node-a", epoch=4),)
    assert fenced_copies(later, (), more=more) == more
