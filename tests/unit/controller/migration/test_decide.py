"""The next step of a migration, from what both sides answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.resources import migration, report
from transship.agentapi.containers import ContainerReport
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import RecordState, RunState, SideState, Verdict
from transship.api.obstacle import obstacle
from transship.api.reasons import Reason
from transship.controller.migration.decide import next_step
from transship.controller.migration.steps import (
    AbortSource,
    AbortTarget,
    Begin,
    Finish,
    GiveUp,
    LoseMemory,
    ObservedMigration,
    Outcome,
    Prepare,
    RecordFence,
    RelayVerdict,
    Side,
    Wait,
)

SPEC = migration().spec
GIVE_UP = GiveUp(Outcome.CANCELLED, obstacle(Reason.MIGRATION_SUPERSEDED, "edited back"))


def report_of(
    state: SideState | None, *, verdict: Verdict = Verdict.UNDECIDED, **more: Any
) -> MigrationReport | None:
    if state is None:
        return None
    made = MigrationReport(migration="m-1", state=state, verdict=verdict)
    return made.model_copy(update=more)


def observed(
    source: SideState | None = None,
    target: SideState | None = None,
    *,
    verdict: Verdict | None = None,
    held_at_source: ContainerReport | None = None,
    held_at_target: ContainerReport | None = None,
    source_answers: bool = True,
    target_answers: bool = True,
    source_gone: bool = False,
    target_gone: bool = False,
    **more: Any,
) -> ObservedMigration:
    owner = held_at_source if held_at_source is not None else report()
    return ObservedMigration(
        spec=SPEC,
        source=Side("node-a", source_answers, report_of(source), owner, fenced=source_gone)
        if source_answers
        else Side("node-a", answered=False, fenced=source_gone),
        target=Side("node-b", target_answers, report_of(target), held_at_target, fenced=target_gone)
        if target_answers
        else Side("node-b", answered=False, fenced=target_gone),
        verdict=verdict,
        **more,
    )


def test_the_target_prepares_first() -> None:
    assert next_step(observed()) == Prepare()


def test_the_source_begins_when_the_target_is_prepared() -> None:
    assert isinstance(next_step(observed(None, SideState.PREPARING)), Wait)
    assert next_step(observed(None, SideState.PREPARED)) == Begin()


def test_an_objection_ends_it_only_before_anything_has_begun() -> None:
    found = obstacle(Reason.CRIU_TOO_OLD, "old")
    assert next_step(observed(preflight_obstacle=found)) == AbortSource()
    forbidden = observed(preflight_obstacle=found, verdict=Verdict.ABORTED)
    assert next_step(forbidden) == Finish(Outcome.FAILED, found)
    assert next_step(observed(None, SideState.PREPARED, preflight_obstacle=found)) == Begin()


def test_a_source_that_is_not_the_owner_ends_it() -> None:
    step = next_step(observed(held_at_source=report(epoch=2)))
    assert isinstance(step, Finish)
    assert step.outcome == Outcome.FAILED


def test_silence_of_either_side_is_waited_for() -> None:
    for scene in (observed(source_answers=False), observed(target_answers=False)):
        step = next_step(scene)
        assert isinstance(step, Wait)
        assert step.why is not None
        assert step.why.reason == Reason.AGENT_UNREACHABLE


def test_the_agents_are_left_alone_during_the_handover() -> None:
    assert isinstance(next_step(observed(SideState.FROZEN, SideState.PREPARED)), Wait)
    assert isinstance(next_step(observed(SideState.FROZEN, target_answers=False)), Wait)


def test_a_target_that_forgot_the_move_while_the_source_copies_aborts_it() -> None:
    assert next_step(observed(SideState.COPYING, None)) == AbortSource()


def test_a_released_container_is_never_given_up() -> None:
    step = next_step(
        observed(SideState.RELEASED, SideState.HELD, verdict=Verdict.RELEASED, give_up=GIVE_UP)
    )
    assert isinstance(step, Wait)


def test_the_release_is_relayed_to_a_target_that_waits_too_long() -> None:
    late = observed(SideState.RELEASED, SideState.HELD, verdict=Verdict.RELEASED, waiting_seconds=1)
    assert next_step(late) == RelayVerdict(Verdict.RELEASED)
    restarted = observed(None, SideState.HELD, verdict=Verdict.RELEASED, waiting_seconds=1)
    assert next_step(restarted) == RelayVerdict(Verdict.RELEASED)


def test_a_silent_target_is_waited_for_after_the_release_for_ever() -> None:
    step = next_step(
        observed(SideState.RELEASED, target_answers=False, verdict=Verdict.RELEASED,
             give_up=GIVE_UP, waiting_seconds=1e6)
    )  # fmt: skip
    assert isinstance(step, Wait)


def test_a_copy_that_the_target_lost_after_the_release_is_a_failure() -> None:
    step = next_step(observed(SideState.RELEASED, None, verdict=Verdict.RELEASED))
    assert isinstance(step, Finish)
    assert step.why is not None
    assert step.why.reason == Reason.CONTAINER_LOST


def test_success_waits_for_the_end_of_the_frozen_copy_but_not_for_ever() -> None:
    early = observed(SideState.RELEASED, SideState.RUNNING, verdict=Verdict.RELEASED)
    assert isinstance(next_step(early), Wait)
    done = observed(SideState.DONE, SideState.RUNNING, verdict=Verdict.RELEASED)
    assert next_step(done) == Finish(Outcome.SUCCEEDED)
    silent = observed(target=SideState.RUNNING, source_answers=False, waiting_seconds=60)
    assert next_step(silent) == Finish(Outcome.SUCCEEDED)


def test_a_target_that_owns_the_container_has_succeeded_though_it_forgot_the_move() -> None:
    left = report(epoch=2, record=RecordState.RELEASED)
    step = next_step(observed(None, None, held_at_source=left, held_at_target=report(epoch=2)))
    assert step == Finish(Outcome.SUCCEEDED)


def test_giving_up_asks_the_source_first() -> None:
    assert (
        next_step(observed(SideState.COPYING, SideState.PREPARED, give_up=GIVE_UP)) == AbortSource()
    )
    assert next_step(observed(SideState.FROZEN, SideState.HELD, give_up=GIVE_UP)) == AbortSource()


def test_giving_up_waits_for_a_silent_source_whatever_the_target_reports() -> None:
    for state in (None, SideState.PREPARED, SideState.HELD):
        assert isinstance(
            next_step(observed(None, state, source_answers=False, give_up=GIVE_UP)), Wait
        )


def test_giving_up_before_the_source_began_forbids_it_then_ends_the_target_and_then_all() -> None:
    assert next_step(observed(None, SideState.PREPARED, give_up=GIVE_UP)) == AbortSource()
    forbidden = observed(None, SideState.PREPARED, verdict=Verdict.ABORTED, give_up=GIVE_UP)
    assert next_step(forbidden) == AbortTarget()
    over = observed(None, SideState.CANCELLED, verdict=Verdict.ABORTED, give_up=GIVE_UP)
    assert next_step(over) == Finish(Outcome.CANCELLED, GIVE_UP.why)


def test_a_target_that_could_not_prepare_ends_it_once_the_source_can_never_begin() -> None:
    failed = observed(None, SideState.FAILED)
    assert next_step(failed) == AbortSource()
    assert isinstance(next_step(replace(failed, verdict=Verdict.ABORTED)), Finish)


def test_a_held_copy_is_not_thrown_away_because_its_source_has_no_record() -> None:
    scene = observed(None, SideState.HELD)
    scene = replace(scene, source=replace(scene.source, container=None))
    assert isinstance(next_step(scene), Wait)


def test_a_held_copy_is_not_discarded_while_the_source_does_not_answer() -> None:
    nobody = report(record=RecordState.RELEASED, run=RunState.FROZEN, epoch=2)
    step = next_step(observed(None, SideState.HELD, held_at_source=nobody, give_up=GIVE_UP))
    assert isinstance(step, Wait)


def test_a_held_copy_hears_of_the_abort() -> None:
    step = next_step(observed(SideState.FAILED, SideState.HELD, verdict=Verdict.ABORTED))
    assert step == RelayVerdict(Verdict.ABORTED)


def test_a_failed_source_ends_it_with_the_words_of_the_source() -> None:
    failed = report_of(
        SideState.FAILED, verdict=Verdict.ABORTED, reason="DumpFailed", message="io_uring"
    )
    scene = observed(target=SideState.CANCELLED, verdict=Verdict.ABORTED)
    step = next_step(
        ObservedMigration(**{**scene.__dict__, "source": Side("node-a", True, failed)})
    )
    assert isinstance(step, Finish)
    assert step.why is not None
    assert (step.why.reason, step.why.message) == ("DumpFailed", "io_uring")
    assert step.why.hint == Reason.DUMP_FAILED.hint


def test_a_side_that_cannot_be_reached_at_the_end_does_not_hold_it_up() -> None:
    step = next_step(observed(SideState.FAILED, target_answers=False, verdict=Verdict.ABORTED))
    assert isinstance(step, Finish)


def test_a_held_copy_runs_when_its_source_s_node_was_declared_gone() -> None:
    held = observed(None, SideState.HELD, source_answers=False)
    assert isinstance(next_step(held), Wait)
    fenced = observed(None, SideState.HELD, source_answers=False, source_gone=True)
    assert next_step(fenced) == RecordFence()  # before anybody hears of it
    assert next_step(replace(fenced, fence_recorded=True)) == RelayVerdict(Verdict.FENCED)
    running = observed(None, SideState.RUNNING, source_answers=False, source_gone=True)
    assert next_step(replace(running, waiting_seconds=60)) == Finish(Outcome.SUCCEEDED)


@pytest.mark.parametrize("state", [None, SideState.PREPARED, SideState.FAILED])
def test_nothing_but_a_held_copy_can_be_saved_from_a_node_that_is_gone(
    state: SideState | None,
) -> None:
    step = next_step(observed(None, state, source_answers=False, source_gone=True))
    assert step != RelayVerdict(Verdict.FENCED)


SIDES = st.one_of(st.none(), st.sampled_from(SideState))
VERDICTS = st.one_of(st.none(), st.sampled_from(Verdict))
RECORDS = st.one_of(
    st.none(),
    st.builds(
        lambda record, epoch: report(record=record, epoch=epoch),
        st.sampled_from(RecordState),
        st.sampled_from([1, 2]),
    ),
)
SCENES = st.builds(
    lambda source, target, verdict, a, b, answers, wish, waited: observed(
        source, target, verdict=verdict if answers[0] else None, held_at_source=a, held_at_target=b,
        source_answers=answers[0], target_answers=answers[1],
        give_up=GIVE_UP if wish else None, waiting_seconds=waited,
    ),
    SIDES, SIDES, VERDICTS, RECORDS, RECORDS, st.tuples(st.booleans(), st.booleans()),
    st.booleans(), st.sampled_from([0.0, 1.0, 1e4]),
)  # fmt: skip


@given(SCENES)
def test_the_release_is_relayed_on_the_source_s_verdict_alone(scene: ObservedMigration) -> None:
    if next_step(scene) == RelayVerdict(Verdict.RELEASED):
        assert scene.verdict == Verdict.RELEASED


@given(SCENES)
def test_nothing_of_the_target_is_ended_while_the_source_may_have_released(
    scene: ObservedMigration,
) -> None:
    step = next_step(scene)
    if step == AbortTarget() or step == RelayVerdict(Verdict.ABORTED):
        assert scene.verdict != Verdict.RELEASED
        assert scene.source.answered


@given(SCENES)
def test_a_cancel_is_never_concluded_from_silence(scene: ObservedMigration) -> None:
    step = next_step(scene)
    if isinstance(step, Finish) and step.outcome != Outcome.SUCCEEDED:
        assert scene.source.answered or scene.verdict is not None


@given(SCENES)
def test_a_wait_ends(scene: ObservedMigration) -> None:
    step = next_step(scene)
    if isinstance(step, Wait):
        assert 0 < step.seconds <= 1


def draining(**more: Any) -> ObservedMigration:
    """The container runs on the target, and some of its memory is still at the source."""
    arrived = report(epoch=2, awaits_memory=True)
    return observed(held_at_target=arrived, target=SideState.RUNNING, **more)


FROZEN = report(epoch=2, record=RecordState.RELEASED, run=RunState.FROZEN, owes_memory=True)
GONE = report(epoch=2, record=RecordState.RELEASED, run=RunState.ABSENT, owes_memory=True)


KILLED = report(epoch=2, record=RecordState.RELEASED, run=RunState.EXITED, owes_memory=True)
DRAINED = report(epoch=2, record=RecordState.RELEASED, run=RunState.ABSENT)


@pytest.mark.parametrize(
    "source",
    [
        {"held_at_source": FROZEN},
        {"held_at_source": DRAINED},
        {"source": SideState.RELEASED, "held_at_source": FROZEN},
        {"source_answers": False},
    ],
)
def test_memory_that_may_still_come_is_waited_for(source: dict[str, Any]) -> None:
    assert isinstance(next_step(draining(**source)), Wait)


def unknown_at_source(state: SideState | None, **more: Any) -> ObservedMigration:
    """The source's agent has no record of the container."""
    now = draining()
    return replace(now, source=Side("node-a", True, report_of(state, **more)))


def test_memory_is_waited_for_while_the_source_reports_its_move() -> None:
    assert isinstance(next_step(unknown_at_source(SideState.DONE)), Wait)


UNREADABLE = draining(held_at_source=FROZEN)
UNREADABLE = replace(
    UNREADABLE,
    source=replace(
        UNREADABLE.source, report=report_of(SideState.RELEASED, reason=Reason.PAGES_LOST)
    ),
)


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        (draining(held_at_source=GONE), "node-a was restarted, or has lost the frozen copy"),
        (draining(held_at_source=KILLED), "the frozen copy on node-a has ended"),
        (draining(source_answers=False, source_gone=True), "node-a is fenced"),
        (unknown_at_source(None), "node-a knows nothing of the container any more"),
        (UNREADABLE, "node-a cannot read it any more"),
    ],
)
def test_a_copy_whose_memory_can_never_come_is_ended_with_the_cause(
    now: ObservedMigration, cause: str
) -> None:
    step = next_step(now)
    assert isinstance(step, LoseMemory)
    assert f"since {cause}:" in step.why


@pytest.mark.parametrize("source", [FROZEN, GONE])
def test_the_cause_of_lost_memory_is_the_one_that_the_target_recorded(
    source: ContainerReport | None,
) -> None:
    """Whatever the source says by then: it may have tidied up what it owed."""
    now = draining(held_at_source=source)
    noted = report_of(
        SideState.RUNNING, reason=Reason.CONTAINER_LOST, message="its page server was killed"
    )
    step = next_step(replace(now, target=replace(now.target, report=noted)))
    assert isinstance(step, Finish)
    assert step.why is not None
    assert (step.outcome, step.why.reason) == (Outcome.FAILED, Reason.CONTAINER_LOST)
    assert step.why.message == "its page server was killed"
