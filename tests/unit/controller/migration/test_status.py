"""The status of a migration: both sides, and one summary."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fakes.resources import NOW, migration, seconds
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import SideState
from transship.api.conditions import Status, find
from transship.api.migration import (
    BlackoutPart,
    MigrationPhase,
    MigrationStatus,
    Step,
    StepName,
)
from transship.api.obstacle import obstacle
from transship.api.placement import (
    Strategy,
)
from transship.api.progress import PERCENT_AT_BEGIN
from transship.api.reasons import Reason
from transship.controller.migration.status import Method
from transship.controller.migration.status import observed_status as migration_status
from transship.controller.migration.steps import Finish, ObservedMigration, Outcome, Side, Wait


def observed_with(
    source: MigrationReport | None = None, target: MigrationReport | None = None
) -> ObservedMigration:
    return ObservedMigration(
        spec=migration().spec,
        source=Side("node-a", answered=True, report=source),
        target=Side("node-b", answered=True, report=target),
    )


def report_of(state: SideState, **words: Any) -> MigrationReport:
    return MigrationReport(migration="m-1", state=state, **words)


METHOD = Method(Strategy.STOP_AND_COPY)


REPORTS = st.none() | st.builds(
    report_of,
    st.sampled_from(SideState),
    percent=st.integers(-1, 101),
    steps=st.lists(st.sampled_from(StepName), unique=True).map(
        lambda names: tuple(Step(name=name, start_time=NOW) for name in names)
    ),
)


def test_a_migration_under_way_shows_both_sides_and_merges_their_steps() -> None:
    prepare = Step(name=StepName.PREPARE, start_time=NOW, milliseconds=40)
    copying = Step(name=StepName.COPY_FILES, start_time=NOW + seconds(1))
    observed = observed_with(
        report_of(SideState.COPYING, steps=(copying,), percent=10),
        report_of(SideState.PREPARED, steps=(prepare,)),
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


def test_a_move_that_waits_for_its_turn_shows_it_and_keeps_its_percentage() -> None:
    copied = Step(name=StepName.COPY_MEMORY, start_time=NOW, milliseconds=40)
    waiting = Step(name=StepName.AWAIT_TURN, start_time=NOW + seconds(1))
    observed = observed_with(report_of(SideState.COPYING, steps=(copied, waiting)))
    status = migration_status(migration(), observed, Wait(0.1), method=METHOD, now=NOW)
    assert status.phase == MigrationPhase.AWAITING_TURN
    assert status.percent == PERCENT_AT_BEGIN[StepName.AWAIT_TURN]
    done = waiting.model_copy(update={"milliseconds": 7})
    observed = observed_with(report_of(SideState.COPYING, steps=(copied, done)))
    status = migration_status(migration(), observed, Wait(0.1), method=METHOD, now=NOW)
    assert status.phase == MigrationPhase.COPYING


def test_every_step_has_a_percentage_and_a_later_one_has_more() -> None:
    found = [PERCENT_AT_BEGIN[name] for name in StepName]
    assert found == sorted(set(found))
    assert 0 < found[0] < found[-1] < 100


@given(
    reports=st.lists(st.tuples(REPORTS, REPORTS, st.booleans()), max_size=8),
    outcome=st.sampled_from(Outcome),
)
def test_the_percentage_never_falls_in_one_attempt_and_is_100_exactly_at_its_success(
    reports: list[tuple[MigrationReport | None, MigrationReport | None, bool]], outcome: Outcome
) -> None:
    move, reported = migration(), [0]
    for source, target, operator_restarts in reports:
        observed = observed_with(source, target)
        status = migration_status(move, observed, Wait(0.1), method=METHOD, now=NOW)
        if operator_restarts:
            status = MigrationStatus.model_validate(status.dump())
        move = move.model_copy(update={"status": status})
        reported.append(status.percent)
    assert reported == sorted(reported)
    assert reported[-1] < 100
    last = migration_status(move, observed_with(), Finish(outcome), method=METHOD, now=NOW)
    assert last.percent == (100 if outcome == Outcome.SUCCEEDED else reported[-1])


def test_figures_stay_when_the_side_that_reported_them_forgets() -> None:
    parts = tuple(BlackoutPart(name="Dump", microseconds=n) for n in (10, 20))
    done = report_of(
        SideState.DONE, blackout_microseconds=81_400, blackout_parts=parts, bytes=7, percent=100
    )
    first = migration_status(migration(), observed_with(done), Wait(0.1), method=METHOD, now=NOW)
    kept = migration().model_copy(update={"status": first})
    end = Finish(Outcome.SUCCEEDED)
    last = migration_status(kept, observed_with(), end, method=METHOD, now=NOW + seconds(2))
    assert (last.blackout_milliseconds, last.bytes, last.percent) == (81, 7, 100)
    assert last.blackout_parts == (BlackoutPart(name="Dump", microseconds=30),)
    assert last.total_milliseconds == 2000
    assert last.phase == MigrationPhase.SUCCEEDED
    assert find(last.conditions, "Reconciling") is None


def test_a_failure_keeps_reason_hint_and_the_end_of_the_log() -> None:
    failed = report_of(SideState.FAILED, reason="DumpFailed", message="io_uring", log_tail="Error")
    why = obstacle(Reason.DUMP_FAILED, "io_uring")
    status = migration_status(
        migration(), observed_with(failed), Finish(Outcome.FAILED, why), method=METHOD, now=NOW
    )
    assert (status.reason, status.message, status.log_tail) == ("DumpFailed", "io_uring", "Error")
    assert status.hint == Reason.DUMP_FAILED.hint
    stalled = find(status.conditions, "Stalled")
    assert stalled is not None
    assert stalled.reason == "DumpFailed"


def test_a_strategy_that_is_not_the_requested_one_is_explained() -> None:
    method = Method(Strategy.STOP_AND_COPY, "PostCopy is not available")
    status = migration_status(migration(), observed_with(), Wait(0.1), method=method, now=NOW)
    assert status.strategy == Strategy.STOP_AND_COPY
    assert status.message == "PostCopy is not available"
