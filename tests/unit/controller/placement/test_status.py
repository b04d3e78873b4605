"""The status of a placement and its conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.resources import NOW, UID, ended, migration, node_agent, placement, report, seconds
from transship.agentapi.containers import ReportedObstacle
from transship.agentapi.states import RecordState, RunState
from transship.api.conditions import Status, find
from transship.api.migration import (
    ContainerMigration,
)
from transship.api.obstacle import obstacle
from transship.api.placement import (
    CurrentMigration,
    LastExit,
    PlacementPhase,
    PlacementStatus,
    Strategy,
)
from transship.api.reasons import Reason
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
    observed_placement = ObservedPlacement(placement=made, status=made.status, **scene)
    return observed_status(observed_placement, decision or Decision(Pause(1)))


def content_of(status: PlacementStatus, kind: str) -> tuple[str, str] | None:
    found = find(status.conditions, kind)
    return None if found is None else (found.status.value, found.reason)


def reporting(**words: Any) -> dict[str, Any]:
    return {"reported_copies": (ReportedCopy("node-a", report(**words)),)}


HANDOVER = [
    (RecordState.FROZEN, RunState.FROZEN),
    (RecordState.RELEASED, RunState.FROZEN),
    (RecordState.RUNNING, RunState.FROZEN),  # on the target, before its thaw
]


def test_a_settled_placement_is_current_for_kstatus() -> None:
    status = status_of(metadata={"generation": 4})
    assert status.observed_generation == 4
    assert content_of(status, "Ready") == ("True", "ContainerReady")
    assert content_of(status, "Reconciling") is None
    assert content_of(status, "Stalled") is None
    assert status.phase == PlacementPhase.RUNNING


def test_an_obstacle_is_shown_as_reconciling_and_a_final_one_as_stalled() -> None:
    found = obstacle(Reason.NODE_NOT_FOUND, "none")
    status = status_of(decision=Decision(Pause(1), found))
    assert content_of(status, "Reconciling") == ("True", "NodeNotFound")
    assert content_of(status, "Ready") == ("True", "ContainerReady")
    final = obstacle(Reason.BACKOFF_LIMIT_EXCEEDED, "enough", final=True)
    status = status_of(decision=Decision(Pause(1), final))
    assert content_of(status, "Reconciling") is None
    assert content_of(status, "Stalled") == ("True", "BackoffLimitExceeded")


def test_the_reason_of_an_unmet_spec_comes_before_that_of_the_running_container() -> None:
    assert status_of().reason == "ContainerReady"
    found = obstacle(Reason.NODE_UNSCHEDULABLE, "none")
    status = status_of(decision=Decision(Pause(1), found), target_node="node-b")
    assert (status.phase, status.reason) == (PlacementPhase.RUNNING, "NodeUnschedulable")
    final = obstacle(Reason.BACKOFF_LIMIT_EXCEEDED, "enough", final=True)
    status = status_of(decision=Decision(Pause(1), final))
    assert (status.phase, status.reason) == (PlacementPhase.RUNNING, "BackoffLimitExceeded")


def test_a_container_that_cannot_be_placed_is_not_ready_for_that_reason() -> None:
    made = placement(target_node="nowhere", network={"mode": "None"})
    observed_placement = ObservedPlacement(made, made.status, NODES, (), (), NOW)
    status = observed_status(observed_placement, decide(observed_placement))
    assert content_of(status, "Ready") == ("False", "NodeNotFound")
    assert content_of(status, "Reconciling") == ("True", "NodeNotFound")
    assert (status.phase, status.reason) == (PlacementPhase.PENDING, "NodeNotFound")


@pytest.mark.parametrize(("record", "run"), HANDOVER)
@pytest.mark.parametrize("ready", [True, False])
def test_a_container_that_is_being_handed_over_is_as_ready_as_before(
    record: RecordState, run: RunState, ready: bool
) -> None:
    frozen = reporting(record=record, run=run, ready=ready)
    status = status_of(observed={**frozen, "migrations": (migration(),)}, target_node="node-b")
    assert content_of(status, "Ready") == (str(ready), "MigrationInProgress")
    assert content_of(status, "Reconciling") == ("True", "MigrationInProgress")
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
def test_a_container_that_does_not_serve_shows_why(
    words: dict[str, Any], ready: str, phase: PlacementPhase
) -> None:
    status = status_of(observed=reporting(**words))
    assert content_of(status, "Ready") == ("False", ready)
    assert status.phase == phase


def test_a_silent_owner_makes_ready_unknown() -> None:
    silent = {"nodes": (Node(NODES[0].agent, silent=True),), "reported_copies": ()}
    status = status_of(observed=silent)
    assert content_of(status, "Ready") == ("Unknown", "AgentUnreachable")
    assert status.phase == PlacementPhase.UNKNOWN
    assert status.node == "node-a"


def test_a_failed_self_test_makes_it_immovable() -> None:
    test = {"passed": False, "time": NOW.isoformat(), "message": "no"}
    status = status_of(observed={"nodes": (Node(node_agent("node-a", selfTest=test)),)})
    assert content_of(status, "Migratable") == ("False", "SelfTestFailed")


def test_what_hinders_a_move_is_said_with_the_number_of_the_rest() -> None:
    found = tuple(
        ReportedObstacle(reason="Traced", message=f"process {n}", hint="h") for n in (7, 8)
    )
    reported_copies = (ReportedCopy("node-a", report(obstacles=found)),)
    status = status_of(observed={"reported_copies": reported_copies})
    assert content_of(status, "Migratable") == ("False", "Traced")
    condition = find(status.conditions, "Migratable")
    assert condition is not None
    assert condition.message == "process 7; and 1 more (h)"
    cold = status_of(observed={"reported_copies": reported_copies}, migration={"strategy": "Cold"})
    assert content_of(cold, "Migratable") == ("True", "Migratable")


def test_what_hinders_one_strategy_is_said_where_that_is_wanted() -> None:
    found = ReportedObstacle(
        reason="StateTooLarge", message="m", strategies=(Strategy.STOP_AND_COPY,)
    )
    observed = {"reported_copies": (ReportedCopy("node-a", report(obstacles=(found,))),)}
    wanted = status_of(observed=observed, migration={"strategy": "StopAndCopy"})
    assert content_of(wanted, "Migratable") == ("False", "StateTooLarge")
    assert content_of(status_of(observed=observed), "Migratable") == ("True", "Migratable")


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
