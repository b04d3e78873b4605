from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.agent_loop import A_MOMENT_SECONDS
from fakes.agent_pair import Pair
from fakes.agent_peers import FakePeers
from fakes.agent_world import FakeMemoryTransfer
from fakes.orders import ID, order
from transship.agent.migration.source.completion import LOST_TRIES
from transship.agentapi.migrations import MigrationReport, RestoreReply, VerdictReply
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.container import RestartPolicy
from transship.api.migration import MemoryTraffic, StepName
from transship.api.obstacle import obstacle
from transship.api.placement import DesiredState, Strategy
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError

MOMENTS = [round(0.003 * n, 3) for n in range(56)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with Pair(tmp_path) as made:
        yield made


def verdict(pair: Pair, migration: str = "m-1") -> VerdictReply:
    return pair.a.live.source.verdict(migration)


def stop_container(pair: Pair) -> None:
    """It has ended by itself and stays so."""
    record = pair.a.record
    assert record is not None
    pair.a.live.journal.put(record.but(state=RecordState.STOPPED, started_boot=""))
    pair.world.end("node-a", by="stop")


def test_a_move_is_reported_with_its_times_and_bytes(pair: Pair) -> None:
    pair.move()
    report = pair.a.live.source.report("m-1")
    assert report is not None
    assert (report.state, report.verdict, report.percent) == (SideState.DONE, Verdict.RELEASED, 100)
    assert [step.name for step in report.steps] == [
        StepName.COPY_FILES,
        StepName.AWAIT_TURN,
        StepName.FREEZE,
        StepName.DUMP,
        StepName.SYNC_FILES,
        StepName.SEND_STATE,
        StepName.RESTORE,
        StepName.DECIDE,
        StepName.RESUME,
        StepName.DESTROY,
    ]
    files, pages = 2 * 10, 100
    assert report.bytes is not None
    assert report.bytes > files + pages
    assert (report.bytes - files - pages) % 512 == 0  # the images' archive


def test_the_parts_of_the_blackout_add_up_to_it(pair: Pair) -> None:
    pair.move()
    report = pair.a.live.source.report("m-1")
    assert report is not None
    parts = {part.name: part.microseconds for part in report.blackout_parts}
    assert StepName.COPY_FILES not in parts
    assert StepName.DESTROY not in parts
    steps = ("Freeze", "Dump", "SyncFiles", "SendState", "Restore", "Decide", "Resume")
    assert report.blackout_microseconds == pytest.approx(
        sum(parts[name] for name in steps), abs=len(steps)
    )


def test_a_repeated_order_reports_the_move_under_way(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    pair.begin()
    pair.pass_time(5.0)
    pair.begin()
    assert pair.source_state() is SideState.DONE


@pytest.mark.parametrize("epoch", [3, 5])
def test_an_order_for_another_epoch_is_refused(pair: Pair, epoch: int) -> None:
    with pytest.raises(Refused):
        pair.begin(epoch=epoch)
    assert pair.a.record is not None
    assert pair.a.record.migration is None


def test_a_container_that_is_not_here_is_not_found(pair: Pair) -> None:
    with pytest.raises(NotFound):
        pair.begin(epoch=2)


def test_a_second_move_of_the_same_container_is_refused(pair: Pair) -> None:
    pair.prepare("m-1")
    pair.begin("m-1")
    with pytest.raises(Refused):
        pair.begin("m-2")
    pair.pass_time(5.0)
    assert pair.source_state("m-1") is SideState.DONE


def test_a_container_that_stopped_after_its_move_was_ordered_is_moved_cold(pair: Pair) -> None:
    pair.strategy = Strategy.AUTO
    pair.prepare()
    stop_container(pair)
    pair.begin()
    pair.pass_time(5.0)
    report = pair.a.live.source.report("m-1")
    assert report is not None
    assert (report.state, report.strategy) == (SideState.DONE, Strategy.COLD)
    assert (pair.b.state, pair.world.starts) == (RecordState.STOPPED, 0)


def test_a_stopped_container_is_not_started_by_an_abort(pair: Pair) -> None:
    stop_container(pair)
    pair.strategy = Strategy.COLD
    pair.world.fail("node-a", "send_difference")
    pair.move()
    pair.settle()
    assert pair.a.state is RecordState.STOPPED
    assert pair.world.copies == {}


def set_policy(pair: Pair, policy: RestartPolicy) -> None:
    record = pair.a.record
    assert record is not None
    wanted = order(state=DesiredState.RUNNING, policy=policy)
    pair.policy = policy
    pair.a.live.journal.put(record.but(order=wanted))


def test_a_completed_container_is_moved_and_not_run(pair: Pair) -> None:
    pair.world.exit("node-a", 7)
    set_policy(pair, RestartPolicy.NEVER)
    pair.call(pair.a.live.residents.wait_for_step(ID), on=pair.a)
    pair.strategy = Strategy.COLD
    pair.move()
    pair.forget()
    pair.b.restart()
    pair.pass_time(30.0)
    record = pair.b.record
    assert record is not None
    assert record.last_exit is not None
    assert (record.state, record.epoch, record.last_exit.exit_code) == (RecordState.STOPPED, 2, 7)
    assert (pair.world.starts, pair.world.copies, pair.a.record) == (0, {}, None)


def test_a_container_in_back_off_is_moved_cold_and_waits_on(pair: Pair) -> None:
    pair.strategy = Strategy.PRE_COPY
    pair.world.exit("node-a", 7)
    pair.a.live.residents.waiting_seconds = 20.0
    pair.move()
    pair.forget()
    record, report = pair.b.record, pair.a.live.source.report("m-1")
    assert record is not None
    assert record.last_exit is not None
    assert (record.state, record.restarts, record.last_exit.exit_code) == (
        RecordState.RUNNING, 1, 7,
    )  # fmt: skip
    assert (report, pair.world.starts, pair.b.live.residents.waiting_seconds) == (None, 0, 20.0)
    pair.b.restart()  # which forgives
    pair.pass_time(1.0)
    pair.assert_lives_on(pair.b, epoch=2)


def test_an_aborted_move_of_a_container_in_back_off_does_not_start_it(pair: Pair) -> None:
    pair.world.exit("node-a", 7)
    pair.a.live.residents.waiting_seconds = 20.0
    pair.world.fail("node-a", "send_difference")
    pair.move()
    assert pair.source_state() is SideState.FAILED
    record = pair.a.record
    assert record is not None
    assert record.last_exit is not None
    assert (record.restarts, record.last_exit.exit_code, pair.world.starts) == (1, 7, 0)


@pytest.mark.parametrize("policy", [RestartPolicy.NEVER, RestartPolicy.ALWAYS])
@pytest.mark.parametrize("strategy", [Strategy.PRE_COPY, Strategy.STOP_AND_COPY, Strategy.COLD])
@pytest.mark.parametrize("moment", [round(0.007 * n, 3) for n in range(50)])
def test_it_may_end_at_any_moment_and_keeps_its_exit_status(
    pair: Pair, moment: float, strategy: Strategy, policy: RestartPolicy
) -> None:
    set_policy(pair, policy)
    pair.strategy = strategy
    pair.prepare()
    pair.begin()
    pair.pass_time(moment)
    being_stopped = strategy is Strategy.COLD and pair.a.state is RecordState.FROZEN
    if pair.world.running() != ["node-a"] or being_stopped:
        return  # or frozen, or handed over
    pair.world.exit("node-a", 7)
    pair.pass_time(30.0)
    assert (pair.source_state(), pair.b.record is None) == (SideState.DONE, False)
    record = pair.b.record
    assert record is not None
    assert record.last_exit is not None
    assert record.last_exit.exit_code == 7
    if policy is RestartPolicy.NEVER:
        assert (record.state, pair.world.starts) == (RecordState.STOPPED, 0)
    else:
        assert record.restarts == 1
        pair.forget()
        pair.assert_lives_on(pair.b, epoch=2)


def test_what_hinders_it_is_said_before_the_freeze(pair: Pair) -> None:
    expected = obstacle(Reason.TRACED, "process 7 (x) is traced by process 1 (y)")
    pair.a.live.residents.obstacles = (expected, expected)
    pair.move()
    pair.assert_lives_on(pair.a, epoch=1)
    report = pair.a.live.source.report("m-1")
    assert report is not None
    assert (report.state, report.reason) == (SideState.FAILED, Reason.TRACED)
    assert report.message == "process 7 (x) is traced by process 1 (y); and 1 more"
    assert report.hint == Reason.TRACED.hint
    assert report.blackout_microseconds is None
    assert [step.name for step in report.steps] == []


def test_nothing_hinders_a_cold_move(pair: Pair) -> None:
    pair.strategy = Strategy.COLD
    pair.a.live.residents.obstacles = (obstacle(Reason.TRACED, "traced"),)
    pair.move()
    pair.assert_lives_on(pair.b, epoch=2)


@pytest.mark.parametrize("strategy", [Strategy.STOP_AND_COPY, Strategy.PRE_COPY])
def test_what_hinders_one_strategy_alone_refuses_that_one(pair: Pair, strategy: Strategy) -> None:
    expected = obstacle(Reason.STATE_TOO_LARGE, "300 MiB")
    only = replace(expected, strategies=(Strategy.STOP_AND_COPY,))
    pair.strategy = strategy
    pair.a.live.residents.obstacles = (only,)
    pair.move()
    if strategy is Strategy.PRE_COPY:
        pair.assert_lives_on(pair.b, epoch=2)
    else:
        pair.assert_lives_on(pair.a, epoch=1)


@pytest.mark.parametrize("strategy", [Strategy.STOP_AND_COPY, Strategy.PRE_COPY])
def test_images_that_turn_out_too_large_are_not_sent_and_it_runs_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, strategy: Strategy
) -> None:
    monkeypatch.setattr(
        "transship.agent.migration.source.state_transfer.LARGEST_RESTORE_BODY_BYTES", 1000
    )
    pair.strategy = strategy
    pair.move()
    pair.assert_lives_on(pair.a, epoch=1)
    report = pair.a.live.source.report("m-1")
    assert report is not None
    assert (report.state, report.reason) == (SideState.FAILED, Reason.STATE_TOO_LARGE)
    assert report.hint == Reason.STATE_TOO_LARGE.hint
    assert "limit" in report.message
    steps = [step.name for step in report.steps]
    assert StepName.FREEZE in steps
    assert StepName.SEND_STATE not in steps


def test_a_cold_move_that_fails_starts_the_container_again(pair: Pair) -> None:
    pair.strategy = Strategy.COLD
    pair.world.fail("node-a", "send_difference")
    pair.move()
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)
    record = pair.a.record
    assert record is not None
    assert (record.restarts, record.last_exit) == (0, None)


def test_an_abort_that_comes_with_the_order_is_an_abort(pair: Pair) -> None:
    async def both() -> Verdict:
        source = pair.a.live.source
        await source.begin(pair.outgoing("m-1", target=pair.b, epoch=1))
        return (await source.abort("m-1", container=ID)).verdict

    pair.prepare()
    assert pair.call(both(), on=pair.a) is Verdict.ABORTED
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


def test_an_abort_after_the_release_tells_so(pair: Pair) -> None:
    pair.prepare()
    pair.network.lost_requests += ["decide"] * 3
    pair.begin()
    pair.until(pair.source_state, equals=SideState.RELEASED)
    assert pair.abort_source() is Verdict.RELEASED
    pair.settle()
    pair.assert_lives_on(pair.b, epoch=2)


def test_a_cancel_that_got_lost_on_its_way_is_heeded_at_the_decision(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def restore(*_: Any, **__: Any) -> RestoreReply:
        try:
            await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            return RestoreReply()
        raise AssertionError

    monkeypatch.setattr(FakePeers, "restore", restore)
    pair.prepare()
    pair.begin()
    pair.pass_time(0.5)
    assert pair.abort_source() is Verdict.ABORTED
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


def test_nothing_is_known_of_a_migration_that_was_never_here(pair: Pair) -> None:
    assert verdict(pair, "m-9").verdict is Verdict.UNKNOWN
    assert pair.a.live.source.report("m-9") is None
    pair.call(pair.a.live.source.forget("m-9"), on=pair.a)


def test_a_migration_that_was_aborted_before_its_order_came_never_begins(pair: Pair) -> None:
    assert pair.abort_source() is Verdict.ABORTED
    pair.a.restart()
    assert verdict(pair).verdict is Verdict.ABORTED
    with pytest.raises(Refused, check=lambda e: e.reason == Reason.ALREADY_ABORTED):
        pair.begin()
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


def test_a_migration_of_a_container_that_is_not_here_cannot_be_aborted(pair: Pair) -> None:
    with pytest.raises(NotFound):
        pair.call(pair.b.live.source.abort("m-1", container=ID), on=pair.b)


def test_the_next_move_waits_until_the_aborted_one_has_thawed(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.a.state, equals=RecordState.FROZEN)
    pair.background(pair.a.live.serve(pair.a.live.source.abort("m-1", container=ID)))
    pair.until(lambda: pair.a.live.source.verdict("m-1").verdict, equals=Verdict.ABORTED)
    with pytest.raises(Refused, check=lambda e: e.reason == Reason.IN_MIGRATION):
        pair.begin("m-2")
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


def test_the_verdict_is_undecided_until_it_is_written(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    for _ in range(140):
        reply, record = verdict(pair), pair.a.on_disk()
        assert record is not None
        released = record.state is RecordState.RELEASED
        assert reply.verdict is (Verdict.RELEASED if released else Verdict.UNDECIDED)
        pair.loop.pass_time(0.001)
    assert verdict(pair).epoch == 2


def test_an_aborted_verdict_outlives_restarts(pair: Pair) -> None:
    pair.world.fail("node-a", "dump")
    pair.move()
    pair.a.restart()
    pair.a.restart()
    assert verdict(pair).verdict is Verdict.ABORTED
    with pytest.raises(Refused):
        pair.begin()


def test_a_move_under_way_is_not_forgotten(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    with pytest.raises(Refused):
        pair.call(pair.a.live.source.forget("m-1"), on=pair.a)
    pair.pass_time(1.0)
    assert pair.source_state() is SideState.DONE


def test_a_frozen_copy_that_cannot_be_ended_at_once_is_ended_later(pair: Pair) -> None:
    pair.world.fail("node-a", "destroy", times=3)
    pair.move()
    pair.until(lambda: pair.source_state() is SideState.DONE, equals=True)
    pair.forget()
    assert pair.source_state() is None
    pair.assert_lives_on(pair.b, epoch=2)


def test_forgetting_a_release_ends_the_frozen_copy_and_the_record(pair: Pair) -> None:
    pair.world.fail("node-a", "destroy", times=5)
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.source_state() is SideState.RELEASED, equals=True)
    pair.until(lambda: pair.world.failing["node-a", "destroy"] < 5, equals=True)
    pair.world.failing.clear()
    pair.forget()
    assert pair.source_state() is None
    pair.assert_lives_on(pair.b, epoch=2)


def test_a_node_that_gave_a_container_away_takes_no_older_order(pair: Pair) -> None:
    pair.move()
    pair.forget()
    assert pair.a.live.journal.floor(ID) == 3


def test_a_forgetting_that_is_repeated_ends_nothing_of_the_next_move(pair: Pair) -> None:
    pair.move("m-1")
    forget = pair.a.live.source.forget
    first = pair.a.live.serve(forget("m-1"))
    pair.loop.pass_time(0.005)
    again = pair.a.live.serve(forget("m-1"))
    pair.until(first.done, equals=True)
    pair.order_incoming("m-2", epoch=2)
    pair.pass_time(1.0)
    assert again.done()
    assert pair.target_state("m-2", epoch=2) is SideState.PREPARED
    assert pair.a.state is RecordState.INCOMING


def test_forgetting_the_earlier_incoming_migration_ends_nothing_of_the_outgoing_one(
    pair: Pair,
) -> None:
    pair.move("m-1")
    pair.forget("m-1")
    pair.move("m-2", epoch=2)
    pair.call(pair.b.live.source.forget("m-1"), on=pair.b)
    assert pair.b.state is RecordState.RELEASED


def test_an_agent_that_is_asked_to_end_leaves_no_undecided_copy_frozen(tmp_path: Path) -> None:
    for moment in MOMENTS:
        folder = tmp_path / str(moment)
        folder.mkdir()
        with Pair(folder) as pair:
            pair.prepare()
            pair.begin()
            pair.loop.pass_time(moment or A_MOMENT_SECONDS)
            pair.a.ask_to_end()
            record = pair.a.on_disk()
            assert record is not None
            if record.state is not RecordState.RELEASED:
                assert pair.world.running() == ["node-a"]
                assert record.state is RecordState.RUNNING
                assert pair.world.network["node-a"] in {"before", "serving"}
            pair.settle()
            pair.assert_settled()


def test_an_agent_that_is_ending_begins_no_move(pair: Pair) -> None:
    pair.prepare()
    pair.call(pair.a.live.source.close(), on=pair.a)
    with pytest.raises(Refused):
        pair.begin()
    assert pair.world.running() == ["node-a"]


def let_memory_follow(pair: Pair) -> None:
    """The target runs, and the source's agent is away before any memory has followed."""
    pair.strategy = Strategy.POST_COPY
    pair.world.fail("node-a", "push_memory", times=1000)
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.b.state, equals=RecordState.RUNNING)
    pair.until(pair.source_state, equals=SideState.RELEASED)


def test_memory_that_nobody_wants_any_more_is_not_kept(pair: Pair) -> None:
    """The target has lost the container and its record while the source's agent was away."""
    let_memory_follow(pair)
    pair.a.down()
    pair.world.end("node-b", by="stop")
    pair.world.unsent.clear()
    pair.b.live.journal.remove(ID, floor=3)
    pair.a.up()
    pair.until(pair.source_state, equals=SideState.DONE)
    pair.forget()
    assert "node-a" not in pair.world.copies
    assert pair.a.record is None


@pytest.mark.parametrize(("gone", "kept"), [((), True), (("node-c",), True), (("node-b",), False)])
def test_memory_is_kept_until_its_target_is_declared_gone(
    pair: Pair, gone: tuple[str, ...], *, kept: bool
) -> None:
    let_memory_follow(pair)
    pair.b.down()
    pair.world.unsent.clear()  # with the node
    pair.call(pair.a.live.source.forget("m-1", gone=gone), on=pair.a)
    assert (pair.a.record is not None) is kept
    assert ("node-a" in pair.world.copies) is kept


def test_pages_that_the_source_has_lost_are_reported(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    async def lost(*_: object, **__: object) -> MemoryTraffic:
        tries.append(report_of(pair).reason)
        raise TransshipError("process 7 is not there any more", reason=Reason.PAGES_LOST)

    with monkeypatch.context() as patch:
        patch.setattr(FakeMemoryTransfer, "push", lost)
        pair.strategy = Strategy.POST_COPY
        pair.prepare()
        pair.begin()
        pair.until(lambda: report_of(pair).reason, equals=Reason.PAGES_LOST)
        assert report_of(pair).state is SideState.RELEASED
        assert tries == [""] * LOST_TRIES  # nobody ends a container for what is seen once
    pair.until(pair.source_state, equals=SideState.DONE)
    assert report_of(pair).reason == ""


def test_pushing_memory_goes_on_after_the_kernel_refuses(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> MemoryTraffic:
        raise OSError(errno.EMFILE, "descriptors are short")

    with monkeypatch.context() as patch:
        patch.setattr(FakeMemoryTransfer, "push", refused)
        let_memory_follow(pair)
    pair.world.failing.clear()
    pair.until(pair.source_state, equals=SideState.DONE)
    assert pair.world.unsent == {}


def report_of(pair: Pair) -> MigrationReport:
    report = pair.a.live.source.report("m-1")
    assert report is not None
    return report


def test_a_frozen_container_runs_on_even_if_the_disk_is_full(pair: Pair) -> None:
    pair.prepare()
    pair.world.fail("node-b", "restore")
    pair.begin()
    pair.until(lambda: pair.a.state, equals=RecordState.FROZEN)
    pair.a.live.journal.full_for = RecordState.RUNNING
    pair.pass_time(3.0)
    assert pair.world.running() == ["node-a"]
    assert pair.source_state() is SideState.FAILED
    pair.a.live.journal.mend()
    pair.pass_time(3.0)
    assert pair.a.state is RecordState.RUNNING
    assert verdict(pair).verdict is Verdict.ABORTED
    pair.settle()
    pair.assert_lives_on(pair.a, epoch=1)


def test_a_forgotten_abort_is_still_made_durable(pair: Pair) -> None:
    pair.prepare()
    pair.world.fail("node-b", "restore")
    pair.begin()
    pair.until(lambda: pair.a.state, equals=RecordState.FROZEN)
    pair.a.live.journal.full_for = RecordState.RUNNING
    pair.pass_time(3.0)
    pair.call(pair.a.live.source.forget("m-1"), on=pair.a)
    pair.a.live.journal.mend()
    pair.pass_time(3.0)
    assert pair.a.state is RecordState.RUNNING


@pytest.mark.parametrize("dies", [True, False])
def test_after_a_release_that_may_be_on_disk_nothing_thaws_before_the_disk_works(
    pair: Pair, *, dies: bool
) -> None:
    journal = pair.a.live.journal
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.a.state, equals=RecordState.FROZEN)
    journal.lies_for, journal.full_for = RecordState.RELEASED, RecordState.RUNNING
    pair.pass_time(10.0)
    assert pair.world.running() == []
    assert verdict(pair).verdict is Verdict.UNDECIDED
    if dies:
        pair.a.restart()
    pair.settle()
    pair.assert_lives_on(pair.b if dies else pair.a, epoch=2 if dies else 1)


def test_packets_that_were_not_let_in_are_let_in_later(pair: Pair) -> None:
    pair.world.fail("node-b", "restore")
    pair.world.fail("node-a", "undivert", times=3)
    pair.move()
    assert pair.world.network["node-a"] == "serving"


def test_a_target_that_was_asked_to_hold_is_answered_by_an_announcement(pair: Pair) -> None:
    """Nothing was frozen or diverted yet, but the target answers for the address already."""
    pair.prepare()
    pair.network.lost_replies.append("hold")
    pair.world.network["node-a"] = "before"
    pair.begin()
    pair.pass_time(10.0)
    assert pair.world.network["node-a"] == "serving"


def test_a_node_without_the_frozen_copy_still_starts(pair: Pair) -> None:
    pair.prepare()
    pair.begin()
    pair.until(lambda: pair.a.state, equals=RecordState.FROZEN)
    pair.a.power_cut()
    pair.a.up()
    pair.pass_time(5.0)
    assert pair.a.state is RecordState.RUNNING
    assert verdict(pair).verdict is Verdict.ABORTED
    assert pair.world.copies == {}
