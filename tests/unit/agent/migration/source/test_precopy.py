"""Auto between two agents: what is decided, and that a slowed container never stays so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.agent_pair import LONG_SECONDS, Pair
from fakes.agent_world import SECONDS
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import RecordState, SideState
from transship.api.migration import StepName
from transship.api.placement import MigrationSettings, PostCopy, Strategy

BUSY = 10_000
"""Pages in a round: ten times as many as are sent in one."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as made:
        made.strategy = Strategy.AUTO
        yield made


def report(pair: Pair) -> MigrationReport:
    found = pair.a.live.source.report("m-1")
    assert found is not None
    return found


def test_auto_begins_as_pre_copy_and_reports_its_prediction(pair: Pair) -> None:
    pair.move()
    reported = report(pair)
    assert (reported.state, reported.strategy) == (SideState.DONE, Strategy.PRE_COPY)
    assert len(reported.rounds) == 1
    assert reported.prediction is not None
    assert reported.prediction.blackout_milliseconds >= 150
    assert "1 round" in reported.prediction.explanation
    assert reported.memory is not None


def test_the_next_prediction_uses_the_measured_handover(pair: Pair) -> None:
    pair.move()
    assert pair.a.live.source._deps.handover_stats.cost.measured
    assert not pair.b.live.source._deps.handover_stats.cost.measured


def test_stop_and_copy_is_predicted_once_the_link_is_known(pair: Pair) -> None:
    pair.strategy = Strategy.STOP_AND_COPY
    pair.a.live.source._deps.handover_stats.note_rate("node-b", 4096e3)  # 1,000 pages a second
    pair.move()
    reported = report(pair)
    assert reported.state is SideState.DONE
    assert reported.prediction is not None
    assert reported.prediction.strategy is Strategy.STOP_AND_COPY
    assert reported.prediction.blackout_milliseconds > 900


def test_a_busy_container_is_slowed_down_and_moved(pair: Pair) -> None:
    pair.world.writing = BUSY
    pair.prepare()
    pair.begin()
    while pair.world.slowed.get("node-a") is None:
        pair.pass_time(0.01)
    pair.pass_time(LONG_SECONDS)
    reported = report(pair)
    assert reported.state is SideState.DONE
    assert "of its CPU time" in reported.choice
    assert pair.world.slowed == {}
    assert pair.world.violations == []


def test_a_slowed_container_is_dumped_at_full_speed_and_fails_no_probe(pair: Pair) -> None:
    """CRIU works inside the container's cgroup."""
    pair.world.writing = BUSY
    pair.prepare()
    pair.begin()
    while pair.world.slowed.get("node-a") is None:
        pair.pass_time(0.001)
    assert pair.a.live.residents.quiet
    while pair.a.state is not RecordState.FROZEN:
        pair.pass_time(0.001)
    pair.pass_time(SECONDS["freeze"] + 0.001)
    assert report(pair).state is SideState.FROZEN
    assert pair.world.slowed == {}


def test_where_it_cannot_be_slowed_down_the_move_fails_and_it_runs_on(pair: Pair) -> None:
    pair.world.writing = BUSY * 1000  # however slow
    pair.move()
    reported = report(pair)
    assert (reported.state, reported.reason) == (SideState.FAILED, "DowntimeTooLong")
    assert pair.a.state is RecordState.RUNNING
    assert pair.world.running() == ["node-a"]
    assert pair.world.slowed == {}


def test_post_copy_falls_to_the_next_best_where_it_cannot_be_done(pair: Pair) -> None:
    pair.world.writing = BUSY
    pair.settings = MigrationSettings(post_copy=PostCopy.ALLOWED)
    pair.move()
    assert report(pair).state is SideState.DONE


@pytest.mark.parametrize("times", [1, 2])
def test_an_abort_gives_the_cpu_time_back_at_once_or_soon(pair: Pair, times: int) -> None:
    pair.world.writing = BUSY * 1000
    pair.prepare()
    pair.begin()
    while pair.world.slowed.get("node-a") is None:
        pair.pass_time(0.01)
    pair.world.fail("node-a", "throttle_release", times=times)
    pair.abort_source()
    pair.pass_time(LONG_SECONDS)
    assert pair.world.slowed == {}
    assert pair.world.running() == ["node-a"]


def test_a_restarted_agent_gives_the_cpu_time_back(pair: Pair) -> None:
    pair.world.writing = BUSY * 1000
    pair.prepare()
    pair.begin()
    while pair.world.slowed.get("node-a") is None:
        pair.pass_time(0.01)
    pair.a.restart()
    pair.pass_time(LONG_SECONDS)
    assert pair.world.slowed == {}
    assert pair.world.running() == ["node-a"]


def test_a_waiting_container_runs_on_is_copied_on_and_can_be_cancelled(pair: Pair) -> None:
    other = pair.a.live.handover_queue.enter()
    pair.move()
    reported = report(pair)
    assert reported.state is SideState.COPYING
    assert "others" in reported.choice
    assert pair.world.running() == ["node-a"]
    pair.abort_source()
    other.leave()
    assert pair.a.live.handover_queue.enter().has_turn


@pytest.mark.parametrize("strategy", Strategy)
def test_the_percentage_never_falls_also_while_it_waits_for_the_turn(
    pair: Pair, strategy: Strategy
) -> None:
    pair.strategy, pair.world.writing = strategy, BUSY // 5
    other = pair.a.live.handover_queue.enter()
    pair.prepare()
    pair.begin()
    shown = [report(pair).percent]
    while not report(pair).state.finished:
        pair.pass_time(0.002)
        shown.append(report(pair).percent)
        if len(shown) == 500:
            lasting = [s.name for s in report(pair).steps if s.milliseconds is None]
            assert strategy is Strategy.COLD or lasting == [StepName.AWAIT_TURN]
            other.leave()
    assert shown == sorted(shown)
    assert shown[-1] == 100


def test_a_waiting_container_is_handed_over_at_its_turn(pair: Pair) -> None:
    other = pair.a.live.handover_queue.enter()
    pair.move()
    pair.world.writing = BUSY // 5
    pair.pass_time(1.0)
    rounds = len(report(pair).rounds)
    other.leave()
    pair.pass_time(LONG_SECONDS)
    assert rounds > 1
    assert report(pair).state is SideState.DONE
    assert pair.a.live.handover_queue.enter().has_turn


def test_a_target_that_does_not_get_the_verdict_delays_no_other_container(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    while pair.a.state is not RecordState.RELEASED:
        pair.pass_time(0.002)
    pair.b.down()
    pair.pass_time(LONG_SECONDS)
    assert pair.a.live.handover_queue.enter().has_turn


def test_two_nodes_that_move_to_each_other_do_not_deadlock(pair: Pair) -> None:
    """Who waits at the source holds nothing that the other one wants."""
    mine = pair.b.live.handover_queue.enter()  # node-b hands another one over meanwhile
    pair.move()
    assert report(pair).state is SideState.DONE
    mine.leave()
