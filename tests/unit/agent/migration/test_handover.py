"""Both roles against each other: every fault of docs/handover.md, at every step."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from loguru import logger

from fakes.agent_pair import Disk, Pair
from fakes.orders import ID
from transship.agentapi.migrations import MemoryLoss
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.placement import Strategy
from transship.api.reasons import Reason

LOSS = MemoryLoss(why="node-a was restarted")
MOMENTS = [round(0.003 * n, 3) for n in range(56)]
"""From the source's order to the end of its copy, and a little longer."""

SOURCE_STEPS = (
    "trees", "copy", "ready", "pause_probes", "freeze", "divert", "dump", "send_difference",
)  # fmt: skip
TARGET_STEPS = ("receive", "hold", "received", "mount", "restore")
MESSAGES = ("files", "memory", "hold", "restore")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger.disable("transship")
    yield
    logger.enable("transship")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as made:
        yield made


def test_a_container_moves_with_its_memory_files_and_address(pair: Pair) -> None:
    pair.move()
    pair.forget()
    pair.assert_lives_on(pair.b, epoch=2)
    assert pair.world.starts == 0


@pytest.mark.parametrize("refuses", [True, False])
def test_what_its_seccomp_filter_refuses_goes_with_it(tmp_path: Path, refuses: bool) -> None:
    """False: it was started by an agent that knew nothing of this, and has that filter for good."""
    with Pair(tmp_path, refuses_landlock=refuses) as pair:
        pair.move()
        assert pair.b.record is not None
        assert pair.b.record.refuses_landlock is refuses


def test_cold_it_gets_the_filter_of_the_target(tmp_path: Path) -> None:
    with Pair(tmp_path, refuses_landlock=False) as pair:
        pair.strategy = Strategy.COLD
        pair.move()
        assert pair.b.record is not None
        assert pair.b.record.refuses_landlock


def test_it_can_move_to_and_fro(pair: Pair) -> None:
    for epoch in range(1, 6):
        pair.move(f"m-{epoch}", epoch=epoch)
        pair.forget(f"m-{epoch}", epoch=epoch)
    pair.assert_lives_on(pair.b, epoch=6)
    assert pair.world.starts == 0


def test_cold_it_starts_from_its_image_on_the_other_node(pair: Pair) -> None:
    pair.strategy = Strategy.COLD
    pair.move()
    pair.forget()
    pair.assert_lives_on(pair.b, epoch=2)
    assert pair.world.starts == 1


@pytest.mark.parametrize("step", SOURCE_STEPS)
def test_when_a_step_fails_at_the_source_the_container_runs_on(pair: Pair, step: str) -> None:
    pair.world.fail("node-a", step)
    pair.move()
    assert pair.source_state() is SideState.FAILED
    assert pair.world.running() == ["node-a"]
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)
    assert pair.world.starts == 0


@pytest.mark.parametrize("step", TARGET_STEPS)
def test_when_a_step_fails_at_the_target_the_container_runs_on(pair: Pair, step: str) -> None:
    pair.world.fail("node-b", step)
    pair.move()
    assert pair.source_state() is SideState.FAILED
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)
    assert pair.world.starts == 0


@pytest.mark.parametrize("step", ["undivert", "thaw", "unready"])
def test_what_fails_on_the_way_back_is_left_to_the_supervisor(pair: Pair, step: str) -> None:
    pair.world.fail("node-b", "restore")
    pair.world.fail("node-a", step)
    pair.move()
    assert pair.world.running() == ["node-a"]
    assert pair.source_state() is SideState.FAILED
    assert pair.abort_source() is Verdict.ABORTED


@pytest.mark.parametrize("message", MESSAGES)
def test_a_lost_request_costs_the_move_alone(pair: Pair, message: str) -> None:
    pair.network.lost_requests.append(message)
    pair.prepare()
    pair.begin()
    pair.pass_time(150)
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_lost_reply_costs_the_move_alone(pair: Pair, message: str) -> None:
    pair.network.lost_replies.append(message)
    pair.prepare()
    pair.begin()
    pair.pass_time(150)
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


@pytest.mark.parametrize("message", [*MESSAGES, "decide"])
def test_a_message_that_comes_twice_changes_nothing(pair: Pair, message: str) -> None:
    pair.network.repeated.append(message)
    pair.network.repeated.append(message)
    pair.move()
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


@pytest.mark.parametrize("seconds", [0.2, 6.0, 20.0])
@pytest.mark.parametrize("message", ["memory", "hold", "decide"])
def test_a_message_that_comes_late_leaves_nothing(pair: Pair, message: str, seconds: float) -> None:
    pair.network.late_seconds[message] = seconds
    pair.move()
    pair.settle()
    pair.assert_settled()


def test_a_lost_go_is_given_again(pair: Pair) -> None:
    pair.network.lost_requests.append("decide")
    pair.move()
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


def test_when_the_answer_to_go_is_lost_it_is_asked_for_again(pair: Pair) -> None:
    pair.network.lost_replies += ["decide", "decide"]
    pair.move()
    assert pair.source_state() is SideState.DONE
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


def test_a_target_that_hears_nothing_asks_and_runs(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    pair.until(pair.source_state, equals=SideState.RELEASED)
    pair.network.lost_requests += ["decide"] * 3
    pair.a.restart()
    pair.network.lost_requests += ["decide"] * 50
    pair.until(pair.target_state, equals=SideState.RUNNING)
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


def test_the_operator_relays_what_the_source_cannot_say(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    pair.until(pair.source_state, equals=SideState.RELEASED)
    pair.network.cut = True
    pair.pass_time(20)
    assert pair.relay(Verdict.RELEASED) is SideState.RUNNING
    assert pair.world.running() == ["node-b"]
    assert pair.relay(Verdict.RELEASED) is SideState.RUNNING
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


def test_a_relayed_abort_ends_a_held_copy(pair: Pair) -> None:
    pair.network.lost_replies.append("restore")
    pair.prepare()
    pair.begin()
    pair.until(pair.target_state, equals=SideState.HELD)
    assert pair.abort_source() is Verdict.ABORTED
    pair.network.cut = True
    pair.relay(Verdict.ABORTED)
    pair.assert_lives_on(pair.a, epoch=1)


@pytest.mark.parametrize("strategy", [Strategy.STOP_AND_COPY, Strategy.POST_COPY, Strategy.COLD])
def test_at_every_moment_the_operator_may_cancel(tmp_path: Path, strategy: Strategy) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.strategy = strategy
            pair.prepare()
            pair.begin()
            if moment:  # 0: before the source has taken its first step
                pair.loop.pass_time(moment)
            first, again = (
                pair.a.live.serve(pair.a.live.source.abort("m-1", container=ID)) for _ in range(2)
            )
            pair.pass_time(1.0)
            kept = first.result().verdict is Verdict.ABORTED
            assert again.result().verdict is first.result().verdict
            pair.settle()
            pair.assert_lives_on(pair.a if kept else pair.b, epoch=1 if kept else 2)
            if strategy is not Strategy.COLD:
                assert pair.world.starts == 0


@pytest.mark.parametrize("strategy", [Strategy.STOP_AND_COPY, Strategy.POST_COPY, Strategy.COLD])
@pytest.mark.parametrize("side", ["node-a", "node-b", "both"])
@pytest.mark.parametrize("away_seconds", [0.0, 10.0])
def test_at_every_moment_an_agent_may_be_killed(
    tmp_path: Path, side: str, away_seconds: float, strategy: Strategy
) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.strategy = strategy
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or 1e-6)
            hit = [node for node in (pair.a, pair.b) if side in {node.name, "both"}]
            for node in hit:
                node.down()
            if away_seconds:
                pair.pass_time(away_seconds)
            for node in hit:
                node.up()
            pair.settle()
            pair.assert_settled()
            if strategy is not Strategy.COLD:
                assert pair.world.starts == 0


@pytest.mark.parametrize("moment", [None, "before", "after"])
def test_a_container_whose_memory_is_lost_is_told_of_whatever_happens_to_the_agent(
    pair: Pair, moment: str | None
) -> None:
    """Killed around its record of it: what the operator asks for again ends the same."""
    pair.strategy = Strategy.POST_COPY
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.b.state, equals=RecordState.RUNNING)
    pair.until(pair.target_state, equals=SideState.RUNNING)
    pair.a.power_cut()
    assert pair.world.unsent
    killed = {f"killed_{moment}": RecordState.RUNNING} if moment else {}
    for name, value in killed.items():
        setattr(pair.b.live.journal, name, value)
    pair.background(pair.b.live.serve(pair.b.live.target.lose_memory("m-1", LOSS)))
    pair.loop.pass_time(0.5)
    pair.b.up()
    again = MemoryLoss(why="it is asked for again") if moment == "after" else LOSS
    pair.background(pair.b.live.serve(pair.b.live.target.lose_memory("m-1", again)))
    pair.loop.pass_time(0.5)
    pair.b.restart()
    pair.loop.pass_time(0.5)
    assert set(pair.world.violations) <= {"node-b takes the container for lost"}  # so it is
    pair.world.violations.clear()
    assert pair.world.running() == ["node-b"]  # anew
    report = pair.b.live.target.report("m-1")
    assert report is not None
    assert (report.state, report.reason) == (SideState.RUNNING, Reason.CONTAINER_LOST)
    assert report.message == LOSS.why
    pair.call(pair.b.live.target.forget("m-1"), on=pair.b)
    pair.b.restart()
    assert pair.b.live.target.report("m-1") is None


@pytest.mark.parametrize("side", ["node-a", "node-b"])
def test_at_every_moment_a_node_may_lose_its_power(tmp_path: Path, side: str) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or 1e-6)
            hit = pair.a if side == "node-a" else pair.b
            hit.power_cut()
            pair.pass_time(3.0)
            hit.up()
            pair.settle()
            assert pair.world.starts == 0
            owners = [n for n in (pair.a, pair.b) if n.state is RecordState.RUNNING]
            assert len(owners) == 1
            assert pair.world.running() in ([], [owners[0].name])
            assert len(pair.world.copies) <= 1
            lost = pair.world.running() == []
            assert not lost or owners[0] is hit


def test_a_held_copy_runs_when_its_source_s_node_was_declared_gone(pair: Pair) -> None:
    pair.network.lost_replies.append("restore")
    pair.prepare()
    pair.begin()
    pair.until(pair.target_state, equals=SideState.HELD)
    pair.a.power_cut()
    pair.pass_time(60.0)
    assert pair.target_state() is SideState.HELD  # silence alone is no word of anybody

    assert pair.relay(Verdict.FENCED) is SideState.RUNNING
    assert pair.world.running() == ["node-b"]
    pair.a.up()
    pair.pass_time(60.0)
    assert pair.world.running() == ["node-b"]
    assert pair.world.starts == 0
    assert pair.a.state is RecordState.RUNNING  # as epoch 1, which waits for an order


@pytest.mark.parametrize("state", list(RecordState))
@pytest.mark.parametrize("side", ["node-a", "node-b"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_agent_may_be_killed_at_every_write_of_its_journal(
    pair: Pair, state: RecordState, side: str, when: str
) -> None:
    journal = (pair.a if side == "node-a" else pair.b).live.journal
    setattr(journal, f"killed_{when}", state)
    with suppress(asyncio.CancelledError):  # what a caller of a dead agent gets here
        pair.move()
    pair.settle()
    pair.assert_settled()
    assert pair.world.starts == 0


@pytest.mark.parametrize("side", ["node-a", "node-b"])
@pytest.mark.parametrize("disk", [Disk.FULL, Disk.LIES])
def test_at_every_moment_a_disk_may_fail(tmp_path: Path, side: str, disk: Disk) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or 1e-6)
            journal = (pair.a if side == "node-a" else pair.b).live.journal
            journal.disk = disk
            pair.pass_time(5.0)
            pair.settle()
            pair.assert_settled()
            assert pair.world.starts == 0


@pytest.mark.parametrize("side", ["node-a", "node-b"])
@pytest.mark.parametrize("disk", [Disk.FULL, Disk.LIES])
def test_a_disk_may_fail_before_its_agent_is_killed(tmp_path: Path, side: str, disk: Disk) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or 1e-6)
            node = pair.a if side == "node-a" else pair.b
            node.live.journal.disk = disk
            pair.pass_time(0.5)
            node.restart()
            pair.settle()
            pair.assert_settled()
            assert pair.world.starts == 0


def test_at_every_moment_the_link_may_break(tmp_path: Path) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or 1e-6)
            pair.network.cut = True
            pair.pass_time(200.0)
            pair.settle()
            pair.assert_settled()
            assert pair.world.starts == 0


def test_at_every_moment_after_its_go_a_container_may_come_back(tmp_path: Path) -> None:
    """The copy that is still being destroyed and the one being prepared have the same names."""
    for moment in MOMENTS[:20]:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare("m-1")
            pair.begin("m-1")
            pair.until(lambda: pair.b.state, equals=RecordState.RUNNING)
            pair.loop.pass_time(moment or 1e-6)
            pair.move("m-2", epoch=2)
            assert pair.source_state("m-2", epoch=2) is SideState.DONE
            pair.settle()
            pair.assert_lives_on(pair.a, epoch=3)
            assert pair.world.starts == 0


def test_a_container_may_come_back_to_a_node_that_was_not_told_of_its_move(pair: Pair) -> None:
    pair.prepare("m-1")
    pair.begin("m-1")
    pair.until(pair.source_state, equals=SideState.RELEASED)
    pair.network.lost_replies += ["decide"] * 5
    pair.until(lambda: pair.b.state, equals=RecordState.RUNNING)
    pair.move("m-2", epoch=2)
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=3)


@pytest.mark.parametrize("epoch", [1, 2])
def test_at_every_moment_an_agent_may_be_killed_as_the_container_comes_back(
    tmp_path: Path, epoch: int
) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare("m-1")
            pair.begin("m-1")
            pair.until(lambda: pair.b.state, equals=RecordState.RUNNING)
            pair.order_incoming("m-2", epoch=2)
            pair.loop.pass_time(moment or 1e-6)
            pair.sides(epoch)[0].restart()
            pair.pass_time(0.2)
            pair.order_outgoing("m-2", epoch=2)
            pair.settle()
            pair.assert_settled()
            assert pair.world.starts == 0


def _folder(parent: Path, moment: float) -> Path:
    folder = parent / str(moment)
    folder.mkdir()
    return folder
