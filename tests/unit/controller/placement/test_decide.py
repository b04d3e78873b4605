"""The next step of a placement."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.resources import NOW, UID, ended, migration, node_agent, placement, report, seconds
from transship.agentapi.containers import ReportedObstacle
from transship.agentapi.states import RecordState, RunState
from transship.api.migration import Step, StepName
from transship.api.placement import ContainerPlacement, Strategy
from transship.api.reasons import Reason
from transship.controller.node.nodes import Node
from transship.controller.placement.decide import decide
from transship.controller.placement.orders import order_digest
from transship.controller.placement.owner import ReportedCopy
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
    RecordOwner,
    Release,
    Remove,
    Wait,
)

NODES = tuple(Node(node_agent(name)) for name in ("node-a", "node-b"))


def settled(**spec: Any) -> ContainerPlacement:
    """On node-a as its first owner, which has taken its order."""
    made = placement(**spec)
    digest = order_digest(made.spec, addresses=("10.0.128.1",))
    status = {
        "node": "node-a", "epoch": 1, "address": "10.0.128.1",
        "container": {"id": UID, "orderDigest": digest}, **spec.get("status", {}),
    }  # fmt: skip
    return placement(**{**spec, "status": status})


def step_of(made: ContainerPlacement, **more: Any) -> Decision:
    scene = {
        "nodes": NODES,
        "reported_copies": (ReportedCopy("node-a", report()),),
        "migrations": (),
        "now": NOW,
        **more,
    }
    return decide(ObservedPlacement(placement=made, status=made.status, **scene))


def deleted(made: ContainerPlacement) -> ContainerPlacement:
    meta = made.metadata.model_copy(update={"deletion_timestamp": NOW})
    return made.model_copy(update={"metadata": meta})


def test_an_address_comes_first_and_none_is_needed_without_a_network() -> None:
    assert step_of(placement(), reported_copies=()).step == Allocate()
    alone = placement(network={"mode": "None"}, target_node="node-b")
    assert step_of(alone, reported_copies=()).step == RecordOwner("node-b")


def test_a_claimed_node_is_ordered_and_an_order_taken_is_not_repeated() -> None:
    made = settled(target_node="node-a")
    digest = order_digest(made.spec, addresses=("10.0.128.1",))
    assert step_of(made, reported_copies=()).step == Order("node-a", 1, digest)
    assert isinstance(step_of(made).step, Wait)


LARGE = {"image": "web", "resources": {"requests": {"memory": "500Gi"}}}
SMALL_NODES = tuple(
    Node(node_agent(name, capacity={"memoryBytes": 2**34})) for name in ("node-a", "node-b")
)


def test_what_no_node_has_room_for_is_not_placed_by_name_or_by_choice() -> None:
    for words in ({"target_node": "node-b"}, {}):
        made = placement(container=LARGE, network={"mode": "None"}, **words)
        decision = step_of(made, reported_copies=(), nodes=SMALL_NODES)
        assert isinstance(decision.step, Wait)
        assert decision.obstacle is not None
        assert decision.obstacle.reason == Reason.INSUFFICIENT_MEMORY


def test_what_has_no_room_on_its_target_is_not_moved_and_not_ended_where_it_is() -> None:
    made = settled(target_node="node-b", container=LARGE)
    decision = step_of(made, nodes=SMALL_NODES)
    assert isinstance(decision.step, Wait)
    assert decision.obstacle is not None
    assert decision.obstacle.reason == Reason.INSUFFICIENT_MEMORY
    there = settled(target_node="node-a", container=LARGE)
    assert step_of(there, nodes=SMALL_NODES).obstacle is None


def test_a_changed_state_is_ordered_where_the_container_is_before_it_moves() -> None:
    made = settled(target_node="node-a")
    changed = placement(target_node="node-b", state="Frozen", status=made.status.dump())
    assert isinstance(step_of(changed).step, Order)


def test_an_agent_that_awaits_its_order_gets_it() -> None:
    waiting = ReportedCopy("node-a", report(run=RunState.ABSENT, reason="AwaitingOrder"))
    assert isinstance(
        step_of(settled(target_node="node-a"), reported_copies=(waiting,)).step, Order
    )


def test_another_target_makes_a_migration() -> None:
    assert step_of(settled(target_node="node-b")).step == Move("node-a", "node-b", 1, 1)


def test_the_record_with_the_highest_epoch_owns_whatever_the_status_says() -> None:
    there = (
        ReportedCopy("node-a", report(record=RecordState.RELEASED, epoch=2, run=RunState.FROZEN)),
        ReportedCopy("node-b", report(epoch=2)),
    )
    done = ended(migration(), good=True)
    step = step_of(settled(target_node="node-b"), reported_copies=there, migrations=(done,)).step
    assert isinstance(step, Wait)


def test_history_names_the_owner_when_no_agent_answers() -> None:
    done = ended(migration(), good=True)
    silent = tuple(Node(node.agent, silent=True) for node in NODES)
    decision = step_of(
        settled(target_node="node-b"), reported_copies=(), migrations=(done,), nodes=silent
    )
    assert decision.obstacle is not None
    assert "node-b" in decision.obstacle.message


def test_nothing_is_started_elsewhere_while_the_owner_is_silent() -> None:
    silent = (Node(NODES[0].agent, silent=True), NODES[1])
    decision = step_of(settled(target_node="node-b"), reported_copies=(), nodes=silent)
    assert isinstance(decision.step, Wait)
    assert decision.obstacle is not None
    assert decision.obstacle.reason == Reason.NODE_LOST


def test_an_agent_that_did_not_answer_in_this_pass_is_not_ordered() -> None:
    decision = step_of(
        settled(target_node="node-a"), reported_copies=(), unanswered=frozenset({"node-a"})
    )
    assert isinstance(decision.step, Wait)


def test_a_running_migration_is_left_to_itself() -> None:
    assert isinstance(step_of(settled(target_node="node-b"), migrations=(migration(),)).step, Wait)


def test_the_next_attempt_waits_for_its_back_off() -> None:
    failed = ended(migration(), good=False)
    made = settled(target_node="node-b")
    early = step_of(made, migrations=(failed,), now=NOW + seconds(9))
    assert isinstance(early.step, Wait)
    assert early.obstacle is not None
    assert early.obstacle.reason == "DumpFailed"
    later = step_of(made, migrations=(failed,), now=NOW + seconds(11))
    assert later.step == Move("node-a", "node-b", 1, 2)


OBSTACLE = ReportedObstacle(reason="Traced", message="process 7 (x) is traced", hint="end it")


def test_a_second_try_waits_until_what_hindered_the_first_is_gone() -> None:
    failed = (ended(migration(), good=False, reason="Traced"),)
    made, late = settled(target_node="node-b"), NOW + seconds(11)
    hindered = (ReportedCopy("node-a", report(obstacles=(OBSTACLE,))),)
    decision = step_of(made, migrations=failed, reported_copies=hindered, now=late)
    assert isinstance(decision.step, Wait)
    assert decision.obstacle is not None
    assert decision.obstacle.reason == "Traced"
    assert "the move to node-b waits: process 7" in decision.obstacle.message
    assert not decision.obstacle.final
    free = step_of(made, migrations=failed, now=late)
    assert free.step == Move("node-a", "node-b", 1, 2)


def test_the_first_try_is_made_so_that_the_refusal_is_on_record() -> None:
    hindered = (ReportedCopy("node-a", report(obstacles=(OBSTACLE,))),)
    first = step_of(settled(target_node="node-b"), reported_copies=hindered)
    assert first.step == Move("node-a", "node-b", 1, 1)


def test_no_process_hinders_a_cold_move() -> None:
    failed = (ended(migration(), good=False),)
    hindered = (ReportedCopy("node-a", report(obstacles=(OBSTACLE,))),)
    made = settled(target_node="node-b", migration={"strategy": "Cold"})
    again = step_of(made, migrations=failed, reported_copies=hindered, now=NOW + seconds(11))
    assert again.step == Move("node-a", "node-b", 1, 2)


@pytest.mark.parametrize(
    ("strategy", "waits"), [("StopAndCopy", True), ("Auto", False), ("Cold", False)]
)
def test_only_what_hinders_the_wanted_strategy_is_waited_for(strategy: str, waits: bool) -> None:
    found = OBSTACLE.model_copy(update={"strategies": (Strategy.STOP_AND_COPY,)})
    failed = (ended(migration(), good=False, reason="StateTooLarge"),)
    decision = step_of(
        settled(target_node="node-b", migration={"strategy": strategy}),
        migrations=failed,
        reported_copies=(ReportedCopy("node-a", report(obstacles=(found,))),),
        now=NOW + seconds(11),
    )
    assert isinstance(decision.step, Wait) == waits


def test_a_failure_that_only_the_freeze_detects_is_not_tried_again() -> None:
    freeze = Step(name=StepName.FREEZE, start_time=NOW)
    failed = (ended(migration(steps=(freeze,)), good=False, reason="StateTooLarge"),)
    late = NOW + seconds(9999)
    decision = step_of(settled(target_node="node-b"), migrations=failed, now=late)
    assert decision.obstacle is not None
    assert decision.obstacle.final
    assert decision.obstacle.reason == Reason.STATE_TOO_LARGE
    assert "told" in decision.obstacle.message
    assert "edit the placement's spec" in decision.obstacle.hint
    edited = settled(target_node="node-b", metadata={"generation": 2})
    assert step_of(edited, migrations=failed, now=late).step == Move("node-a", "node-b", 1, 2)
    early = (ended(migration(), good=False, reason="StateTooLarge"),)
    again = step_of(settled(target_node="node-b"), migrations=early, now=late)
    assert again.step == Move("node-a", "node-b", 1, 2)


def test_the_back_off_doubles() -> None:
    failed = tuple(ended(migration(attempt=n), good=False) for n in (1, 2))
    made = settled(target_node="node-b")
    assert isinstance(step_of(made, migrations=failed, now=NOW + seconds(19)).step, Wait)
    assert isinstance(step_of(made, migrations=failed, now=NOW + seconds(21)).step, Move)


def test_the_back_off_limit_is_final_for_this_spec_alone() -> None:
    failed = tuple(ended(migration(attempt=n), good=False) for n in (1, 2, 3, 4))
    late = NOW + seconds(9999)
    decision = step_of(settled(target_node="node-b"), migrations=failed, now=late)
    assert decision.obstacle is not None
    assert decision.obstacle.final
    assert decision.obstacle.reason == Reason.BACKOFF_LIMIT_EXCEEDED
    edited = settled(target_node="node-b", metadata={"generation": 2})
    assert step_of(edited, migrations=failed, now=late).step == Move("node-a", "node-b", 1, 5)


def test_a_deleted_migration_is_noted_and_not_tried_again() -> None:
    made = settled(target_node="node-b")
    going = migration(deleted=NOW)
    assert step_of(made, migrations=(going,)).step == RecordCancellation(1)
    over = ended(migration(deleted=NOW), good=False, reason="MigrationCancelled")
    assert step_of(made, migrations=(over,)).step == RecordCancellation(1)
    noted = settled(target_node="node-b", status={"cancelledGeneration": 1})
    decision = step_of(noted)
    assert decision.obstacle is not None
    assert decision.obstacle.final


def test_a_deleted_migration_that_the_spec_no_longer_wants_is_not_noted() -> None:
    going = migration(deleted=NOW)
    assert isinstance(step_of(settled(target_node="node-a"), migrations=(going,)).step, Wait)


def test_what_a_finished_migration_left_behind_is_cleaned_up() -> None:
    left = ReportedCopy(
        "node-b", report(record=RecordState.INCOMING, epoch=2, migration="uid-web-1-1")
    )
    failed = ended(migration(), good=False)
    made = settled(target_node="node-a")
    here = ReportedCopy("node-a", report())
    soon = step_of(made, reported_copies=(here, left), migrations=(failed,)).step
    assert isinstance(soon, Wait)
    assert soon.seconds < 1  # no event will tell when it is time
    later = NOW + seconds(4)
    step = step_of(made, reported_copies=(here, left), migrations=(failed,), now=later).step
    assert step == CleanUp("node-b", "uid-web-1-1", RecordState.INCOMING)
    running = step_of(made, reported_copies=(here, left), migrations=(migration(),)).step
    assert isinstance(running, Wait)


def test_what_a_fenced_node_still_believes_in_is_removed_when_it_comes_back() -> None:
    fenced = {"node": "node-b", "epoch": 2, "fencedCopies": [{"node": "node-a", "epoch": 1}]}
    made = settled(target_node="node-b", status=fenced)
    stale = ReportedCopy("node-a", report(epoch=1))
    owner = ReportedCopy("node-b", report(epoch=2))
    assert step_of(made, reported_copies=(stale, owner)).step == Remove("node-a", 1)
    assert step_of(made, reported_copies=(stale,)).step == Remove(
        "node-a", 1
    )  # before anything runs
    later = ReportedCopy("node-a", report(epoch=3))
    assert isinstance(step_of(made, reported_copies=(later, owner)).step, Wait)


def test_a_status_that_anybody_can_edit_removes_nothing() -> None:
    made = settled(status={"node": "node-b", "epoch": 9})
    step = step_of(made, reported_copies=(ReportedCopy("node-a", report(epoch=1)),)).step
    assert not isinstance(step, Remove)


def test_the_end_takes_the_move_then_the_container_then_the_address() -> None:
    gone = deleted(settled(target_node="node-b"))
    assert step_of(gone, migrations=(migration(),)).step == Cancel("web-1-1")
    assert isinstance(step_of(gone, migrations=(migration(deleted=NOW),)).step, Wait)
    assert step_of(gone).step == Remove("node-a", 1)
    assert step_of(gone, reported_copies=()).step == Release()
    free = placement(status={"node": "node-a", "epoch": 1})
    assert step_of(deleted(free), reported_copies=()).step == Done()


def test_the_end_waits_for_a_silent_owner_unless_its_node_is_gone_for_good() -> None:
    gone = deleted(settled(target_node="node-a"))
    silent = (Node(NODES[0].agent, silent=True), NODES[1])
    assert isinstance(step_of(gone, reported_copies=(), nodes=silent).step, Wait)
    assert isinstance(step_of(gone, reported_copies=(), nodes=NODES[1:]).step, Wait)
    fenced = step_of(gone, reported_copies=(), nodes=NODES[1:], fenced=frozenset({"node-a"}))
    assert fenced.step == Release()


def test_the_end_waits_for_a_silent_former_node_that_may_have_a_frozen_copy() -> None:
    made = deleted(settled(target_node="node-b", status={"node": "node-b", "epoch": 2}))
    left = ended(migration(), good=True, source_state="Released")
    here = {"reported_copies": (), "migrations": (left,)}
    for away in ({"unanswered": frozenset({"node-a"})}, {"nodes": NODES[1:]}):
        decision = step_of(made, **here, **away)
        assert isinstance(decision.step, Wait)
        assert decision.obstacle is not None
        assert "node-a" in decision.obstacle.message
        assert left.metadata.name in decision.obstacle.message
    assert step_of(made, **here).step == Release()


def test_the_end_waits_for_no_former_node_that_is_gone_for_good_or_has_nothing_left() -> None:
    made = deleted(settled(target_node="node-b", status={"node": "node-b", "epoch": 2}))
    left = ended(migration(), good=True, source_state="Released")
    gone = step_of(
        made, reported_copies=(), migrations=(left,), nodes=NODES[1:], fenced=frozenset({"node-a"})
    )
    assert gone.step == Release()
    done = ended(migration(), good=True, source_state="Done")
    off = frozenset({"node-a"})
    assert step_of(made, reported_copies=(), migrations=(done,), unanswered=off).step == Release()


def test_a_move_waits_for_its_turn_on_both_nodes() -> None:
    for full in ({"node-a"}, {"node-b"}):
        decision = step_of(settled(target_node="node-b"), full_nodes=frozenset(full))
        assert isinstance(decision.step, Wait)
        assert decision.obstacle is not None
        assert decision.obstacle.reason == Reason.MIGRATION_PENDING
    assert isinstance(
        step_of(settled(target_node="node-b"), full_nodes=frozenset({"c"})).step, Move
    )
