from __future__ import annotations

from contextlib import suppress

import pytest

from fakes.clock import FakeClock
from transship.agent.migration.stopwatch import Stopwatch
from transship.api.migration import BlackoutPart, StepName


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watch(clock: FakeClock) -> Stopwatch:
    return Stopwatch(clock)


def parts(watch: Stopwatch) -> dict[str, int]:
    return {part.name: part.microseconds for part in watch.parts}


def test_steps_are_told_in_order_with_their_times(watch: Stopwatch, clock: FakeClock) -> None:
    with watch.step(StepName.COPY_FILES):
        clock.pass_time(2.5)
    with watch.step(StepName.DUMP):
        clock.pass_time(0.0004)
    assert [(s.name, s.milliseconds) for s in watch.steps] == [
        (StepName.COPY_FILES, 2500),
        (StepName.DUMP, 0),
    ]
    assert (watch.steps[1].start_time - watch.steps[0].start_time).total_seconds() == 2.5


def test_only_what_is_inside_the_blackout_is_a_part_of_it(
    watch: Stopwatch, clock: FakeClock
) -> None:
    for name in StepName:
        with watch.step(name):
            clock.pass_time(0.001)
    assert list(parts(watch)) == [
        "Freeze", "Dump", "SyncFiles", "SendState", "Restore", "Decide", "Resume",
    ]  # fmt: skip


def test_the_current_step_is_the_one_begun_last(watch: Stopwatch) -> None:
    assert watch.current is None
    with watch.step(StepName.COPY_FILES):
        with watch.step(StepName.COPY_MEMORY):
            assert watch.current is StepName.COPY_MEMORY
        assert watch.current is StepName.COPY_FILES
    assert watch.current is None


def test_a_step_that_fails_stays_the_current_one(watch: Stopwatch, clock: FakeClock) -> None:
    with suppress(OSError), watch.step(StepName.DUMP):
        clock.pass_time(1.0)
        raise OSError("gone")
    assert watch.current is StepName.DUMP
    assert watch.steps[0].milliseconds is None
    assert parts(watch) == {}


def test_parts_are_timed_in_microseconds(watch: Stopwatch, clock: FakeClock) -> None:
    with watch.part("Mount"):
        clock.pass_time(0.00025)
    assert parts(watch) == {"Mount": 250}


def test_what_the_other_side_measured_is_told_apart(watch: Stopwatch) -> None:
    watch.add([BlackoutPart(name="Mount", microseconds=7)], prefix="Target")
    assert parts(watch) == {"TargetMount": 7}


def test_a_step_that_is_not_all_blackout_is_noted_by_its_share(
    watch: Stopwatch, clock: FakeClock
) -> None:
    with watch.step(StepName.FREEZE):
        clock.pass_time(0.005)  # the journal, before anything stands still
        watch.note(StepName.FREEZE, seconds=0.002)
    assert parts(watch) == {"Freeze": 2000}
    assert watch.steps[0].milliseconds == 5
