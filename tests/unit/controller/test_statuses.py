"""What the statuses say, derived from what was seen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.resources import NOW, UID, ended, migration, node_agent, placement, report, seconds
from transship.agentapi.containers import ReportedObstacle
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import RecordState, RunState, SideState
from transship.api.conditions import Status, find
from transship.api.migration import (
    BlackoutPart,
    ContainerMigration,
    MigrationPhase,
    MigrationStatus,
    Step,
    StepName,
)
from transship.api.obstacle import obstacle
from transship.api.placement import (
    CurrentMigration,
    LastExit,
    PlacementPhase,
    PlacementStatus,
    Strategy,
)
from transship.api.progress import PERCENT_AT_BEGIN
from transship.api.reasons import Reason
from transship.controller.migration.status import Method
from transship.controller.migration.status import observed_status as migration_status
from transship.controller.migration.steps import Finish, ObservedMigration, Outcome, Side, Wait
from transship.controller.node.nodes import Node
from transship.controller.placement.decide import decide
from transship.controller.placement.owner import ReportedCopy
from transship.controller.placement.status import observed_status
from transship.controller.placement.steps import Decision, ObservedPlacement
from transship.controller.placement.steps import Wait as Pause

NODES = tuple(Node(node_agent(name)) for name in ("node-a", "node-b"))
OWNED = {"node": "node-a", "epoch": 1, "address": "10.0.128.1", "container": {"id": UID}}


def status_of(
    *, decision: Decision | None = None, observed: dict[str, Any] | None = None, **spec: Any
) -> PlacementStatus:
    made = placement(status=OWNED, **{"target_node": "node-a", **spec})
    scene = {
        "nodes": NODES,
        "reported_copies": (ReportedCopy("node-a", report()),),
        "migrations": (),
        "now": NOW,
        **(observed or {}),
    }
    looked = ObservedPlacement(placement=made, status=made.status, **scene)
    return observed_status(looked, decision or Decision(Pause(1)))


def said(status: PlacementStatus, kind: str) -> tuple[str, str] | None:
    found = find(status.conditions, kind)
    return None if found is None else (found.status.value, found.reason)


def sighted(**words: Any) -> dict[str, Any]:
    return {"reported_copies": (ReportedCopy("node-a", report(**words)),)}


def test_a_settled_placement_is_current_for_kstatus() -> None:
    status = status_of(metadata={"generation": 4})
    assert status.observed_generation == 4
    assert said(status, "Ready") == ("True", "ContainerReady")
    assert said(status, "Reconciling") is None
    assert said(status, "Stalled") is None
    assert status.phase == PlacementPhase.RUNNING


def test_an_obstacle_is_told_as_reconciling_and_a_final_one_as_stalled() -> None:
    found = obstacle(Reason.NODE_NOT_FOUND, "none")
    status = status_of(decision=Decision(Pause(1), found))
    assert said(status, "Reconciling") == ("True", "NodeNotFound")
    assert said(status, "Ready") == ("True", "ContainerReady")
    final = obstacle(Reason.BACKOFF_LIMIT_EXCEEDED, "enough", final=True)
    status = status_of(decision=Decision(Pause(1), final))
    assert said(status, "Reconciling") is None
    assert said(status, "Stalled") == ("True", "BackoffLimitExceeded")


def test_the_reason_of_an_unmet_wish_comes_before_that_of_what_runs() -> None:
    assert status_of().reason == "ContainerReady"
    found = obstacle(Reason.NODE_UNSCHEDULABLE, "none")
    status = status_of(decision=Decision(Pause(1), found), target_node="node-b")
    assert (status.phase, status.reason) == (PlacementPhase.RUNNING, "NodeUnschedulable")
    final = obstacle(Reason.BACKOFF_LIMIT_EXCEEDED, "enough", final=True)
    status = status_of(decision=Decision(Pause(1), final))
    assert (status.phase, status.reason) == (PlacementPhase.RUNNING, "BackoffLimitExceeded")


def test_a_container_that_cannot_be_placed_is_not_ready_for_that_reason() -> None:
    made = placement(target_node="nowhere", network={"mode": "None"})
    looked = ObservedPlacement(made, made.status, NODES, (), (), NOW)
    status = observed_status(looked, decide(looked))
    assert said(status, "Ready") == ("False", "NodeNotFound")
    assert said(status, "Reconciling") == ("True", "NodeNotFound")
    assert (status.phase, status.reason) == (PlacementPhase.PENDING, "NodeNotFound")


HANDOVER = [
    (RecordState.FROZEN, RunState.FROZEN),
    (RecordState.RELEASED, RunState.FROZEN),
    (RecordState.RUNNING, RunState.FROZEN),  # on the target, before its thaw
]


@pytest.mark.parametrize(("record", "run"), HANDOVER)
@pytest.mark.parametrize("ready", [True, False])
def test_a_container_that_is_being_handed_over_is_as_ready_as_before(
    record: RecordState, run: RunState, ready: bool
) -> None:
    frozen = sighted(record=record, run=run, ready=ready)
    status = status_of(observed={**frozen, "migrations": (migration(),)}, target_node="node-b")
    assert said(status, "Ready") == (str(ready), "MigrationInProgress")
    assert said(status, "Reconciling") == ("True", "MigrationInProgress")
    assert status.phase == PlacementPhase.MIGRATING
    assert status.migration is not None
    assert status.migration.name == "web-1-1"


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({}, "the container runs; it has no readiness probe"),
        ({"readinessProbe": {"exec": {"command": ["true"]}}},
         "the container runs and its readiness probe succeeds"),
    ],
)  # fmt: skip
def test_no_probe_is_said_to_succeed_where_there_is_none(
    container: dict[str, object], message: str
) -> None:
    status = status_of(container={"image": "registry:5000/counter:1", **container})
    found = find(status.conditions, "Ready")
    assert found is not None
    assert (found.reason, found.message) == (Reason.CONTAINER_READY, message)


@pytest.mark.parametrize(
    ("words", "ready", "phase"),
    [
        ({"ready": False}, "ContainerNotReady", PlacementPhase.RUNNING),
        ({"run": RunState.CREATING}, "Starting", PlacementPhase.STARTING),
        ({"run": RunState.EXITED, "reason": "CrashLoopBackOff"}, "CrashLoopBackOff",
         PlacementPhase.STARTING),
        ({"run": RunState.FROZEN}, "ContainerFrozen", PlacementPhase.FROZEN),
        ({"record": RecordState.STOPPED, "run": RunState.ABSENT}, "ContainerExited",
         PlacementPhase.STOPPED),
        ({"record": RecordState.STOPPED, "last_exit": LastExit(exit_code=3, time=NOW)},
         "ContainerExited", PlacementPhase.FAILED),
    ],
)  # fmt: skip
def test_a_container_that_does_not_serve_says_why(
    words: dict[str, Any], ready: str, phase: PlacementPhase
) -> None:
    status = status_of(observed=sighted(**words))
    assert said(status, "Ready") == ("False", ready)
    assert status.phase == phase


def test_a_silent_owner_makes_ready_unknown() -> None:
    silent = {"nodes": (Node(NODES[0].agent, silent=True),), "reported_copies": ()}
    status = status_of(observed=silent)
    assert said(status, "Ready") == ("Unknown", "AgentUnreachable")
    assert status.phase == PlacementPhase.UNKNOWN
    assert status.node == "node-a"


def test_a_failed_self_test_makes_it_immovable() -> None:
    test = {"passed": False, "time": NOW.isoformat(), "message": "no"}
    status = status_of(observed={"nodes": (Node(node_agent("node-a", selfTest=test)),)})
    assert said(status, "Migratable") == ("False", "SelfTestFailed")


def test_what_hinders_a_move_is_said_with_the_number_of_the_rest() -> None:
    found = tuple(
        ReportedObstacle(reason="Traced", message=f"process {n}", hint="h") for n in (7, 8)
    )
    reported_copies = (ReportedCopy("node-a", report(obstacles=found)),)
    status = status_of(observed={"reported_copies": reported_copies})
    assert said(status, "Migratable") == ("False", "Traced")
    condition = find(status.conditions, "Migratable")
    assert condition is not None
    assert condition.message == "process 7; and 1 more (h)"
    cold = status_of(observed={"reported_copies": reported_copies}, migration={"strategy": "Cold"})
    assert said(cold, "Migratable") == ("True", "Migratable")


def test_what_hinders_one_strategy_is_said_where_that_is_wanted() -> None:
    found = ReportedObstacle(
        reason="StateTooLarge", message="m", strategies=(Strategy.STOP_AND_COPY,)
    )
    observed = {"reported_copies": (ReportedCopy("node-a", report(obstacles=(found,))),)}
    wanted = status_of(observed=observed, migration={"strategy": "StopAndCopy"})
    assert said(wanted, "Migratable") == ("False", "StateTooLarge")
    assert said(status_of(observed=observed), "Migratable") == ("True", "Migratable")


def test_the_last_success_is_shown() -> None:
    older = ended(migration(strategy=Strategy.STOP_AND_COPY), good=True)
    newer = ended(migration(epoch=2, strategy=Strategy.COLD, blackout_milliseconds=7), good=True)
    failed = ended(migration(epoch=3, strategy=Strategy.COLD), good=False)
    status = status_of(observed={"migrations": (newer, failed, older)})
    assert status.last_migration is not None
    assert status.last_migration.name == "web-2-1"
    assert status.last_migration.blackout_milliseconds == 7


@given(
    st.sampled_from(RecordState), st.sampled_from(RunState), st.booleans(), st.booleans(),
    st.booleans(), st.sampled_from(["Running", "Frozen", "Stopped"]),
)  # fmt: skip
def test_every_status_is_one_that_kstatus_understands(
    record: RecordState,
    run: RunState,
    ready: bool,
    moving: bool,
    deleting: bool,
    state: str,
) -> None:
    meta = {"deletionTimestamp": NOW.isoformat()} if deleting else {}
    made = placement(status=OWNED, target_node="node-a", state=state, metadata=meta)
    observed = ObservedPlacement(
        placement=made, status=made.status, nodes=NODES, now=NOW,
        reported_copies=(ReportedCopy("node-a", report(record=record, run=run, ready=ready)),),
        migrations=(migration(),) if moving else (),
    )  # fmt: skip
    status = observed_status(observed, decide(observed))
    kinds = {c.type: c.status for c in status.conditions}
    assert {"Ready", "Migratable"} <= kinds.keys()
    assert not {"Reconciling", "Stalled"} <= kinds.keys()
    assert kinds.get("Reconciling", Status.TRUE) == Status.TRUE
    assert status.phase is not None
    again = observed_status(
        ObservedPlacement(**{**observed.__dict__, "status": status, "now": NOW + seconds(60)}),
        decide(observed),
    )
    assert again == status


def seen_move(
    source: MigrationReport | None = None, target: MigrationReport | None = None
) -> ObservedMigration:
    return ObservedMigration(
        spec=migration().spec,
        source=Side("node-a", answered=True, report=source),
        target=Side("node-b", answered=True, report=target),
    )


def told(state: SideState, **words: Any) -> MigrationReport:
    return MigrationReport(migration="m-1", state=state, **words)


METHOD = Method(Strategy.STOP_AND_COPY)


def test_a_migration_under_way_shows_both_sides_and_merges_their_steps() -> None:
    prepare = Step(name=StepName.PREPARE, start_time=NOW, milliseconds=40)
    copying = Step(name=StepName.COPY_FILES, start_time=NOW + seconds(1))
    observed = seen_move(
        told(SideState.COPYING, steps=(copying,), percent=10),
        told(SideState.PREPARED, steps=(prepare,)),
    )
    status = migration_status(migration(), observed, Wait(0.1), method=METHOD, now=NOW)
    assert status.phase == MigrationPhase.COPYING
    assert [step.name for step in status.steps] == [StepName.PREPARE, StepName.COPY_FILES]
    assert status.source is not None
    assert status.source.state == "Copying"
    assert status.percent == 10
    assert status.start_time == NOW
    succeeded = find(status.conditions, "Succeeded")
    assert succeeded is not None
    assert succeeded.status == Status.UNKNOWN


def test_a_move_that_waits_for_its_turn_says_so_and_stands_where_it_was() -> None:
    copied = Step(name=StepName.COPY_MEMORY, start_time=NOW, milliseconds=40)
    waiting = Step(name=StepName.AWAIT_TURN, start_time=NOW + seconds(1))
    observed = seen_move(told(SideState.COPYING, steps=(copied, waiting)))
    status = migration_status(migration(), observed, Wait(0.1), method=METHOD, now=NOW)
    assert status.phase == MigrationPhase.AWAITING_TURN
    assert status.percent == PERCENT_AT_BEGIN[StepName.AWAIT_TURN]
    done = waiting.model_copy(update={"milliseconds": 7})
    observed = seen_move(told(SideState.COPYING, steps=(copied, done)))
    status = migration_status(migration(), observed, Wait(0.1), method=METHOD, now=NOW)
    assert status.phase == MigrationPhase.COPYING


def test_every_step_has_a_percentage_and_a_later_one_has_more() -> None:
    found = [PERCENT_AT_BEGIN[name] for name in StepName]
    assert found == sorted(set(found))
    assert 0 < found[0] < found[-1] < 100


REPORTS = st.none() | st.builds(
    told,
    st.sampled_from(SideState),
    percent=st.integers(-1, 101),
    steps=st.lists(st.sampled_from(StepName), unique=True).map(
        lambda names: tuple(Step(name=name, start_time=NOW) for name in names)
    ),
)


@given(
    reports=st.lists(st.tuples(REPORTS, REPORTS, st.booleans()), max_size=8),
    outcome=st.sampled_from(Outcome),
)
def test_the_percentage_never_falls_in_one_attempt_and_is_100_exactly_at_its_success(
    reports: list[tuple[MigrationReport | None, MigrationReport | None, bool]], outcome: Outcome
) -> None:
    move, reported = migration(), [0]
    for source, target, operator_restarts in reports:
        observed = seen_move(source, target)
        status = migration_status(move, observed, Wait(0.1), method=METHOD, now=NOW)
        if operator_restarts:
            status = MigrationStatus.model_validate(status.dump())
        move = move.model_copy(update={"status": status})
        reported.append(status.percent)
    assert reported == sorted(reported)
    assert reported[-1] < 100
    last = migration_status(move, seen_move(), Finish(outcome), method=METHOD, now=NOW)
    assert last.percent == (100 if outcome == Outcome.SUCCEEDED else reported[-1])


def test_a_placement_shows_no_older_percentage_of_the_same_attempt() -> None:
    def reported(move: ContainerMigration, before: CurrentMigration | None) -> int:
        made = placement(status={**OWNED, "migration": before}, target_node="node-b")
        observed = ObservedPlacement(
            placement=made, status=made.status, nodes=NODES, now=NOW,
            reported_copies=(ReportedCopy("node-a", report()),), migrations=(move,),
        )  # fmt: skip
        current = observed_status(observed, Decision(Pause(1))).migration
        assert current is not None
        return current.percent

    before = CurrentMigration(name="web-1-1", percent=65)
    assert reported(migration(percent=30), before) == 65
    assert reported(migration(percent=80), before) == 80
    assert reported(migration(attempt=2, percent=5), before) == 5


def test_figures_stay_when_the_side_that_told_them_forgets() -> None:
    parts = tuple(BlackoutPart(name="Dump", microseconds=n) for n in (10, 20))
    done = told(
        SideState.DONE, blackout_microseconds=81_400, blackout_parts=parts, bytes=7, percent=100
    )
    first = migration_status(migration(), seen_move(done), Wait(0.1), method=METHOD, now=NOW)
    kept = migration().model_copy(update={"status": first})
    end = Finish(Outcome.SUCCEEDED)
    last = migration_status(kept, seen_move(), end, method=METHOD, now=NOW + seconds(2))
    assert (last.blackout_milliseconds, last.bytes, last.percent) == (81, 7, 100)
    assert last.blackout_parts == (BlackoutPart(name="Dump", microseconds=30),)
    assert last.total_milliseconds == 2000
    assert last.phase == MigrationPhase.SUCCEEDED
    assert find(last.conditions, "Reconciling") is None


def test_a_failure_keeps_reason_hint_and_the_end_of_the_log() -> None:
    failed = told(SideState.FAILED, reason="DumpFailed", message="io_uring", log_tail="Error")
    why = obstacle(Reason.DUMP_FAILED, "io_uring")
    status = migration_status(
        migration(), seen_move(failed), Finish(Outcome.FAILED, why), method=METHOD, now=NOW
    )
    assert (status.reason, status.message, status.log_tail) == ("DumpFailed", "io_uring", "Error")
    assert status.hint == Reason.DUMP_FAILED.hint
    stalled = find(status.conditions, "Stalled")
    assert stalled is not None
    assert stalled.reason == "DumpFailed"


def test_a_strategy_that_is_not_the_wished_one_is_explained() -> None:
    method = Method(Strategy.STOP_AND_COPY, "PostCopy is not available")
    status = migration_status(migration(), seen_move(), Wait(0.1), method=method, now=NOW)
    assert status.strategy == Strategy.STOP_AND_COPY
    assert status.message == "PostCopy is not available"
