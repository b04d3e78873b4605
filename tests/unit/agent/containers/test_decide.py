from __future__ import annotations

from typing import Any

import pytest

from fakes.clock import FakeClock
from fakes.orders import BOOT, MIGRATION, order, peer, running_record
from transship.agent.containers.decide import (
    BackOff,
    ObservedContainer,
    Situation,
    Step,
    exit_of,
    next_step,
    starts_again,
)
from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agentapi.states import RunState
from transship.api.container import RestartPolicy
from transship.api.placement import DesiredState, LastExit

NOW = FakeClock().now()
NEW = transitions.ordered(None, order(), boot=BOOT)
RUNS = running_record()
REBOOTED = running_record().but(started_boot="earlier-boot", ordered_boot="earlier-boot")
ENDED = transitions.ended(RUNS, None)


def wanting(state: DesiredState, record: Record = RUNS) -> Record:
    return transitions.ordered(record, order(state=state), boot=BOOT)


def observed_as(run: RunState, **more: Any) -> ObservedContainer:
    return ObservedContainer(run, **more)


def situation(record: Record, run: RunState, **more: Any) -> Situation:
    return Situation(record=record, observed=ObservedContainer(run), boot=BOOT, **more)


CASES = {
    "a new order has its image fetched first": (situation(NEW, RunState.ABSENT), Step.FETCH),
    "then it is started": (situation(NEW, RunState.ABSENT, fetched=True), Step.START),
    "unless it has to wait": (
        situation(NEW, RunState.ABSENT, fetched=True, waiting_seconds=3.0), Step.WAIT),
    "what runs is left alone": (situation(RUNS, RunState.RUNNING), Step.NOTHING),
    "an exit is recorded": (situation(RUNS, RunState.EXITED), Step.RECORD_EXIT),
    "so is an instance that vanished": (situation(RUNS, RunState.ABSENT), Step.RECORD_EXIT),
    "and what a start that was cut short has left": (
        situation(NEW, RunState.CREATING), Step.RECORD_EXIT),
    "after a power cut the exit is recorded": (
        situation(REBOOTED, RunState.ABSENT), Step.RECORD_EXIT),
    "then the operator is awaited": (
        situation(REBOOTED.but(started_boot=""), RunState.ABSENT, fetched=True), Step.AWAIT_ORDER),
    "what ended for good stays ended": (situation(ENDED, RunState.ABSENT), Step.NOTHING),
    "a probe that failed ends the instance": (
        situation(RUNS, RunState.RUNNING, unhealthy=True), Step.STOP),
    "but not a frozen one": (
        situation(wanting(DesiredState.FROZEN), RunState.FROZEN, unhealthy=True), Step.NOTHING),
    "frozen on demand": (
        situation(wanting(DesiredState.FROZEN), RunState.RUNNING), Step.FREEZE),
    "thawed on demand": (situation(RUNS, RunState.FROZEN), Step.THAW),
    "stopped on demand": (situation(wanting(DesiredState.STOPPED), RunState.RUNNING), Step.STOP),
    "stopped on demand, from frozen": (
        situation(wanting(DesiredState.STOPPED), RunState.FROZEN), Step.STOP),
    "a stop is recorded": (
        situation(wanting(DesiredState.STOPPED), RunState.EXITED), Step.RECORD_EXIT),
    "and then it is stopped": (
        situation(wanting(DesiredState.STOPPED, ENDED), RunState.ABSENT), Step.NOTHING),
    "deleted: first ended": (situation(RUNS, RunState.RUNNING, deleting=True), Step.STOP),
    "deleted: then removed": (situation(RUNS, RunState.EXITED, deleting=True), Step.DELETE),
    "a disowned copy's end is no exit": (
        situation(RUNS, RunState.EXITED, disowned=True), Step.NOTHING),
}  # fmt: skip


@pytest.mark.parametrize(("now", "step"), CASES.values(), ids=CASES.keys())
def test_next_step(now: Situation, step: Step) -> None:
    assert next_step(now) is step


@pytest.mark.parametrize("run", list(RunState))
def test_a_supervisor_changes_nothing_during_a_handover(run: RunState) -> None:
    frozen = transitions.frozen(RUNS, migration=MIGRATION, peer=peer())
    for record in (frozen, transitions.released(frozen, epoch=2)):
        assert next_step(situation(record, run, deleting=True)) is Step.NOTHING


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        (RestartPolicy.ALWAYS, 0, True),
        (RestartPolicy.ALWAYS, 1, True),
        (RestartPolicy.ON_FAILURE, 0, False),
        (RestartPolicy.ON_FAILURE, 1, True),
        (RestartPolicy.ON_FAILURE, -1, True),
        (RestartPolicy.NEVER, 1, False),
    ],
)
def test_the_restart_policy_decides(policy: RestartPolicy, code: int, again: bool) -> None:
    record = running_record().but(order=order(policy=policy))
    last = LastExit(exit_code=code, time=NOW)
    assert starts_again(situation(record, RunState.EXITED), last) is again


@pytest.mark.parametrize(
    ("record", "observed", "code", "reason"),
    [
        (RUNS, observed_as(RunState.EXITED, exit_code=0), 0, "Completed"),
        (RUNS, observed_as(RunState.EXITED, exit_code=3), 3, "Error"),
        (RUNS, observed_as(RunState.EXITED, exit_code=137, out_of_memory=True), 137, "OOMKilled"),
        (RUNS, observed_as(RunState.ABSENT), -1, "Vanished"),
        (REBOOTED, observed_as(RunState.ABSENT), -1, "NodeRestarted"),
    ],
)
def test_an_exit_has_a_code_and_a_reason(
    record: Record, observed: ObservedContainer, code: int, reason: str
) -> None:
    last = exit_of(Situation(record=record, observed=observed, boot=BOOT), at=NOW)
    assert last is not None
    assert (last.exit_code, last.reason) == (code, reason)


def test_what_never_ran_has_not_ended() -> None:
    assert exit_of(situation(NEW, RunState.CREATING), at=NOW) is None


def test_the_first_restart_is_immediate_and_the_next_ones_wait_longer_and_longer() -> None:
    back_off, waits = BackOff(), []
    for _ in range(8):
        back_off = back_off.after_end(at=0.0, ran_seconds=1.0)
        waits.append(back_off.waiting_seconds(at=0.0))
    assert waits == [0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_a_container_that_ran_for_ten_minutes_is_forgiven() -> None:
    back_off = BackOff(next_seconds=160.0).after_end(at=0.0, ran_seconds=600.0)
    assert back_off.waiting_seconds(at=0.0) == 0.0
    assert back_off.after_end(at=0.0, ran_seconds=1.0).waiting_seconds(at=4.0) == 6.0


def test_what_comes_before_a_start_is_not_tried_again_at_once() -> None:
    assert BackOff().after_failure(at=5.0).waiting_seconds(at=5.0) == 10.0
