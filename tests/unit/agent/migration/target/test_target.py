from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fakes.agent_loop import A_MOMENT_SECONDS
from fakes.agent_pair import Pair
from transship.agent.migration.target import restore as restore_module
from transship.agentapi.migrations import RestoreRequest
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.placement import Strategy
from transship.common.errors import NotFound, Refused
from transship.streams.connection import Hello, Stream, StreamKind

MOMENTS = [round(0.003 * n, 3) for n in range(50)]
SOURCE = "transship:agent:node-a"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as made:
        yield made


def hold_copy(pair: Pair) -> None:
    """node-b holds a copy, and has heard nothing since."""
    pair.prepare()
    pair.begin()
    pair.until(pair.target_state, equals=SideState.HELD)
    pair.network.cut = True


def test_preparing_is_repeated_without_effect(pair: Pair) -> None:
    pair.prepare()
    pair.prepare()
    assert pair.target_state() is SideState.PREPARED
    assert pair.b.state is RecordState.INCOMING
    assert pair.world.network["node-b"] == "created"


@pytest.mark.parametrize("step", ["prepare", "create_network"])
def test_a_target_that_cannot_prepare_keeps_nothing(pair: Pair, step: str) -> None:
    pair.world.fail("node-b", step)
    pair.prepare()
    assert pair.target_state() is SideState.FAILED
    assert pair.b.record is None
    assert "node-b" not in pair.world.homes
    assert "node-b" not in pair.world.network
    report = pair.b.live.target.report("m-1")
    assert report is not None
    assert report.reason == "Planned"


def test_a_full_disk_makes_preparing_fail(pair: Pair) -> None:
    pair.b.live.journal.full_for = RecordState.INCOMING
    pair.prepare()
    assert pair.target_state() is SideState.FAILED
    assert "node-b" not in pair.world.homes


def test_what_a_failure_left_is_removed_when_the_move_is_forgotten(pair: Pair) -> None:
    pair.world.fail("node-b", "prepare")
    pair.world.fail("node-b", "remove")
    pair.prepare()
    assert pair.b.state is RecordState.INCOMING
    pair.call(pair.b.live.target.forget("m-1"), on=pair.b)
    assert pair.b.record is None
    assert "node-b" not in pair.world.homes


def test_what_a_failure_left_is_removed_as_soon_as_it_can_be(pair: Pair) -> None:
    pair.world.fail("node-b", "prepare")
    pair.world.fail("node-b", "remove")
    pair.prepare()
    assert pair.b.state is RecordState.INCOMING
    pair.pass_time(2.0)
    assert pair.b.record is None
    assert "node-b" not in pair.world.homes


def test_what_was_forgotten_too_early_can_still_be_aborted(pair: Pair) -> None:
    pair.prepare()
    pair.b.live.target._incoming.clear()
    assert pair.abort_target() is SideState.CANCELLED
    assert pair.b.record is None


def test_a_container_that_is_here_already_does_not_arrive(pair: Pair) -> None:
    with pytest.raises(Refused):
        pair.prepare(epoch=2)


def test_only_one_of_two_orders_for_a_container_prevails(pair: Pair) -> None:
    pair.order_incoming("m-1", epoch=1)
    pair.order_incoming("m-2", epoch=1)
    pair.pass_time(1.0)
    assert pair.target_state("m-1") is SideState.PREPARED
    assert pair.target_state("m-2") is None
    assert pair.b.record is not None
    assert pair.b.record.migration == "m-1"


async def nothing() -> AsyncIterator[bytes]:
    return
    yield


NO_STREAM = cast("Stream", None)


@pytest.mark.parametrize("call", ["memory", "hold", "restore", "files"])
def test_nothing_is_served_before_all_is_prepared(pair: Pair, call: str) -> None:
    target = pair.b.live.target
    pair.order_incoming("m-1", epoch=1)
    served: dict[str, Any] = {
        "memory": lambda: target.memory("m-1"),
        "hold": lambda: target.hold("m-1"),
        "restore": lambda: target.restore("m-1", RestoreRequest(), body=nothing()),
        "files": lambda: target.receive_files(
            Hello(migration="m-1", kind=StreamKind.FILES), SOURCE, stream=NO_STREAM
        ),
    }
    with pytest.raises(Refused):
        pair.call(served[call](), on=pair.b)


def test_files_are_taken_from_the_source_alone(pair: Pair) -> None:
    pair.prepare()
    hello, stream = Hello(migration="m-1", kind=StreamKind.FILES), NO_STREAM
    receiving = pair.b.live.target.receive_files(hello, "transship:agent:node-c", stream)
    with pytest.raises(Refused):
        pair.call(receiving, on=pair.b)


def test_a_stream_of_files_ends_before_its_folder_is_removed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    async def receive(*_: object, **__: object) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            ended.append("node-b" in pair.world.homes)

    async def accept(_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(restore_module, "receive_trees", receive)
    monkeypatch.setattr(restore_module, "accept", accept)
    pair.prepare()
    hello: Any = Hello(migration="m-1", kind=StreamKind.FILES)
    pair.background(pair.b.live.serve(pair.b.live.target.receive_files(hello, SOURCE, NO_STREAM)))
    assert pair.abort_target() is SideState.CANCELLED
    assert ended == [True]
    assert "node-b" not in pair.world.homes


def test_a_late_call_of_the_source_finds_nothing_to_open(pair: Pair) -> None:
    """It waited for the lock while the migration was discarded."""
    pair.prepare()
    target = pair.b.live.target
    aborting = pair.b.live.serve(target.abort("m-1"))
    pair.loop.pass_time()
    with pytest.raises(Refused):
        pair.call(target.memory("m-1"), on=pair.b)
    assert aborting.done()
    assert pair.world.servers == {}


def test_at_every_moment_preparing_may_be_aborted(tmp_path: Path) -> None:
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.order_incoming("m-1", epoch=1)
            pair.loop.pass_time(moment or A_MOMENT_SECONDS)
            assert pair.abort_target() is SideState.CANCELLED
            pair.call(pair.b.live.target.forget("m-1"), on=pair.b)
            pair.assert_lives_on(pair.a, epoch=1)
            assert pair.b.record is None


def test_at_every_moment_a_target_may_be_asked_to_abort(tmp_path: Path) -> None:
    """It never throws away what the source may have released meanwhile."""
    for moment in MOMENTS:
        with Pair(_folder(tmp_path, moment)) as pair:
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or A_MOMENT_SECONDS)
            aborting = pair.b.live.serve(pair.b.live.target.abort("m-1"))
            pair.pass_time(1.0)
            assert aborting.done()
            if aborting.exception() is not None:
                assert isinstance(aborting.exception(), Refused)
            pair.settle()
            pair.assert_settled()
            assert pair.world.starts == 0


def test_a_held_copy_is_not_thrown_away_on_request(pair: Pair) -> None:
    hold_copy(pair)
    with pytest.raises(Refused):
        pair.abort_target()
    with pytest.raises(Refused):
        pair.call(pair.b.live.target.forget("m-1"), on=pair.b)
    assert pair.b.state is RecordState.HELD


@pytest.mark.parametrize("verdict", [Verdict.UNDECIDED, Verdict.UNKNOWN])
def test_what_is_no_verdict_changes_nothing(pair: Pair, verdict: Verdict) -> None:
    hold_copy(pair)
    with pytest.raises(Refused):
        pair.relay(verdict)
    assert pair.b.state is RecordState.HELD


def test_a_release_to_another_epoch_changes_nothing(pair: Pair) -> None:
    hold_copy(pair)
    with pytest.raises(Refused):
        pair.relay(Verdict.RELEASED, epoch=3)
    assert pair.b.state is RecordState.HELD


def test_a_release_before_the_restore_changes_nothing(pair: Pair) -> None:
    pair.prepare()
    with pytest.raises(Refused):
        pair.relay(Verdict.RELEASED)
    assert pair.b.state is RecordState.INCOMING


def test_a_verdict_on_an_unknown_migration_is_not_found(pair: Pair) -> None:
    with pytest.raises(NotFound):
        pair.relay(Verdict.RELEASED, "m-9")


def test_a_copy_that_runs_is_ended_by_no_abort(pair: Pair) -> None:
    pair.move()
    assert pair.relay(Verdict.ABORTED) is SideState.RUNNING
    assert pair.abort_target() is SideState.RUNNING
    pair.forget()
    pair.assert_lives_on(pair.b, epoch=2)


def test_two_goes_at_once_have_one_answer(pair: Pair) -> None:
    pair.network.repeated.append("decide")
    pair.prepare()
    pair.begin()
    pair.until(pair.target_state, equals=SideState.HELD)
    states = [pair.relay(Verdict.RELEASED) for _ in range(2)]
    assert states == [SideState.RUNNING] * 2


def test_a_repeated_go_is_answered_after_a_restart_too(pair: Pair) -> None:
    pair.move()
    pair.b.restart()
    assert pair.relay(Verdict.RELEASED) is SideState.RUNNING


def test_packets_of_an_aborted_move_go_back_to_the_source(pair: Pair) -> None:
    """Also those that came before there was a copy to hold."""
    seen: list[str | None] = []
    pair.world.fail("node-a", "dump")
    pair.prepare()
    pair.begin()
    for _ in range(200):
        pair.loop.pass_time(0.001)
        seen.append(pair.world.network.get("node-b"))
    assert "returning" in seen
    assert seen[-1] is None


def test_a_copy_that_does_not_resume_is_left_to_its_supervisor(pair: Pair) -> None:
    pair.world.fail("node-b", "resume")
    pair.move()
    assert pair.source_state() is SideState.DONE
    pair.forget()
    pair.assert_lives_on(pair.b, epoch=2)


def test_go_is_repeated_until_packets_are_let_in(pair: Pair) -> None:
    pair.world.fail("node-b", "release", times=3)
    pair.move()
    assert pair.source_state() is SideState.DONE
    pair.forget()
    pair.assert_lives_on(pair.b, epoch=2)


def test_a_repeated_go_starts_a_cold_container_once(pair: Pair) -> None:
    pair.strategy = Strategy.COLD
    pair.world.fail("node-b", "release", times=3)
    pair.prepare()
    pair.begin()
    pair.until(pair.world.running, equals=["node-b"])
    pair.loop.pass_time(0.01)
    first = pair.b.record
    assert first is not None
    pair.pass_time(10.0)
    assert pair.source_state() is SideState.DONE
    assert pair.b.record is not None
    assert pair.b.record.start_time == first.start_time


def test_a_cold_container_is_no_restart_for_its_target(pair: Pair) -> None:
    pair.strategy = Strategy.COLD
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.b.state, equals=RecordState.HELD)
    pair.b.restart()
    pair.pass_time(10.0)
    record = pair.b.record
    assert record is not None
    assert (record.state, record.restarts, record.last_exit) == (RecordState.RUNNING, 0, None)
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


def test_a_node_that_lost_its_held_copy_obeys_the_verdict_all_the_same(pair: Pair) -> None:
    hold_copy(pair)
    pair.b.power_cut()
    pair.network.heal()
    pair.b.up()
    pair.pass_time(20.0)
    released = pair.source_state() is SideState.DONE
    assert pair.b.state is (RecordState.RUNNING if released else None)
    assert pair.world.running() == ([] if released else ["node-a"])


def test_a_node_that_loses_the_copy_after_the_release_owns_what_is_left(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    pair.until(pair.source_state, equals=SideState.RELEASED)
    pair.b.power_cut()
    pair.b.up()
    pair.pass_time(20.0)
    assert pair.source_state() is SideState.DONE
    assert pair.b.state is RecordState.RUNNING
    assert pair.world.copies == {}


def test_an_agent_starts_although_it_cannot_remove_what_is_left(pair: Pair) -> None:
    pair.prepare()
    pair.world.fail("node-b", "remove")
    pair.b.restart()
    pair.pass_time(1.0)
    assert pair.target_state() is SideState.FAILED
    assert pair.b.state is RecordState.INCOMING
    pair.settle()
    assert pair.b.record is None


def test_a_target_goes_on_asking_whatever_it_hears(pair: Pair) -> None:
    hold_copy(pair)
    pair.pass_time(30.0)
    pair.network.lost_replies += ["verdict"] * 2
    pair.network.heal()
    pair.pass_time(30.0)
    pair.settle()
    pair.assert_settled()


def test_the_folder_of_images_is_free_when_a_migration_is_forgotten(pair: Pair) -> None:
    """A next dump writes where settling removes."""
    pair.world.fail("node-b", "settle")
    pair.move()
    pair.forget()
    assert pair.target_state() is None
    pair.assert_lives_on(pair.b, epoch=2)


def _folder(parent: Path, moment: float) -> Path:
    folder = parent / str(moment)
    folder.mkdir()
    return folder
