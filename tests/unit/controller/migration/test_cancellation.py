"""Whether a running migration should be given up."""

from __future__ import annotations

from fakes.resources import NOW, migration, node_agent, placement
from transship.api.migration import ContainerMigration
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.controller.migration.cancellation import reason_to_give_up
from transship.controller.migration.steps import GiveUp, Outcome
from transship.controller.node.nodes import Node

NODES = tuple(Node(node_agent(name)) for name in ("node-a", "node-b"))


def reason(
    made: ContainerMigration | None = None,
    wanted: ContainerPlacement | None = None,
    *,
    after: float = 0,
) -> GiveUp | None:
    return reason_to_give_up(made or migration(), wanted, nodes=NODES, running_seconds=after)


def test_a_move_that_is_wanted_goes_on() -> None:
    assert reason(wanted=placement(target_node="node-b"), after=500) is None


def test_an_edited_target_a_deletion_and_a_missing_placement_cancel() -> None:
    edited = reason(wanted=placement(target_node="node-a"))
    assert edited is not None
    assert edited.why.reason == Reason.MIGRATION_SUPERSEDED
    wanted = placement(target_node="node-b")
    for found in (
        reason(migration(deleted=NOW), wanted),
        reason(),
        reason(wanted=placement(uid="another", target_node="node-b")),
    ):
        assert found is not None
        assert found.outcome == Outcome.CANCELLED
        assert found.why.reason == Reason.MIGRATION_CANCELLED


def test_the_deadline_fails_it() -> None:
    short = migration(settings={"deadlineSeconds": 30})
    wanted = placement(target_node="node-b")
    assert reason(short, wanted, after=29) is None
    late = reason(short, wanted, after=31)
    assert late is not None
    assert late.outcome == Outcome.FAILED
    assert late.why.reason == Reason.DEADLINE_EXCEEDED
