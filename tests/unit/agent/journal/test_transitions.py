from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.orders import BOOT, MIGRATION, incoming_order, order, peer, running_record
from transship.agent.journal import transitions
from transship.agent.journal.record import OWNED, Record
from transship.agent.journal.transitions import ABORTED_MIGRATIONS_KEPT
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import RecordState, Verdict
from transship.api.placement import DesiredState, LastExit
from transship.api.reasons import Reason
from transship.common.errors import Refused

OTHER = "00000000-0000-4000-8000-00000000000f"


def outgoing() -> Record:
    return transitions.outgoing(running_record(), migration=MIGRATION, peer=peer())


def frozen() -> Record:
    return transitions.frozen(outgoing(), migration=MIGRATION, peer=peer())


def released() -> Record:
    return transitions.released(frozen(), epoch=2)


def aborted() -> Record:
    return transitions.aborted(frozen(), migration=MIGRATION)


def incoming() -> Record:
    return transitions.incoming(None, incoming_order(), boot=BOOT)


def held() -> Record:
    return transitions.held(incoming(), boot=BOOT)


def go(
    *, verdict: Verdict = Verdict.RELEASED, epoch: int = 2, migration: str = MIGRATION
) -> VerdictNotice:
    return VerdictNotice(migration=migration, verdict=verdict, epoch=epoch)


def refusal(reason: Reason) -> pytest.RaisesExc[Refused]:
    return pytest.raises(Refused, check=lambda e: e.reason == reason)


def test_an_order_makes_a_record_in_the_state_it_asks_for() -> None:
    assert transitions.ordered(None, order(), boot=BOOT).state is RecordState.RUNNING
    stopped = transitions.ordered(None, order(state=DesiredState.STOPPED), boot=BOOT)
    assert stopped.state is RecordState.STOPPED


def test_what_has_completed_elsewhere_is_not_started_by_a_node_that_does_not_have_it() -> None:
    end = LastExit(exit_code=3, time=datetime(2026, 1, 1, tzinfo=UTC))
    ended = order().model_copy(update={"completed": True, "last_exit": end})
    record = transitions.ordered(None, ended, boot=BOOT)
    assert (record.state, record.last_exit) == (RecordState.STOPPED, end)
    stopped = transitions.ordered(record, order(state=DesiredState.STOPPED), boot=BOOT)
    assert transitions.ordered(stopped, order(), boot=BOOT).state is RecordState.RUNNING


def test_an_order_of_an_earlier_owner_is_refused() -> None:
    with refusal(Reason.STALE_EPOCH):
        transitions.ordered(running_record(epoch=3), order(epoch=2), boot=BOOT)


def test_an_order_that_was_overtaken_by_a_move_is_refused_after_the_record_is_gone() -> None:
    with refusal(Reason.STALE_EPOCH):
        transitions.ordered(None, order(epoch=2), boot=BOOT, floor=3)
    assert transitions.ordered(None, order(epoch=3), boot=BOOT, floor=3).epoch == 3


def test_a_repeated_order_confirms_the_record_for_this_boot_and_changes_nothing_else() -> None:
    before = running_record()
    after = transitions.ordered(before, order(), boot="next-boot")
    assert after == before.but(ordered_boot="next-boot")


def test_a_container_that_ended_for_good_is_not_started_by_a_repeated_order() -> None:
    ended = transitions.ended(running_record(), None)
    assert transitions.ordered(ended, order(), boot=BOOT).state is RecordState.STOPPED


def test_a_container_that_was_ordered_to_stop_runs_when_it_is_ordered_to_run() -> None:
    stopped = transitions.ordered(running_record(), order(state=DesiredState.STOPPED), boot=BOOT)
    stopped = transitions.ended(stopped, None)
    assert transitions.ordered(stopped, order(), boot=BOOT).state is RecordState.RUNNING


@pytest.mark.parametrize("record", [frozen(), released(), incoming(), held()])
def test_a_container_in_migration_takes_no_orders_and_no_deletion(record: Record) -> None:
    changed = order(epoch=5, state=DesiredState.STOPPED)
    with pytest.raises(Refused):
        transitions.ordered(record, changed, boot=BOOT)
    with pytest.raises(Refused):
        transitions.may_be_deleted(record, epoch=5)


def test_a_repeated_order_is_answered_while_the_container_is_copied() -> None:
    assert transitions.ordered(outgoing(), order(), boot=BOOT) == outgoing()


def test_released_is_for_good() -> None:
    with refusal(Reason.ALREADY_RELEASED):
        transitions.aborted(released(), migration=MIGRATION)
    with refusal(Reason.ALREADY_RELEASED):
        transitions.outgoing(released(), migration=OTHER, peer=peer())
    with refusal(Reason.ALREADY_RELEASED):
        transitions.frozen(released(), migration=MIGRATION, peer=peer())
    with pytest.raises(Refused):
        transitions.ordered(released(), order(epoch=3), boot=BOOT)


def test_only_a_frozen_copy_is_released_and_only_to_the_next_epoch() -> None:
    with refusal(Reason.WRONG_STATE):
        transitions.released(outgoing(), epoch=2)
    with refusal(Reason.STALE_EPOCH):
        transitions.released(frozen(), epoch=3)
    assert released().epoch == 2
    assert transitions.released(released(), epoch=2) == released()


def test_an_aborted_migration_never_begins_again() -> None:
    with refusal(Reason.ALREADY_ABORTED):
        transitions.outgoing(aborted(), migration=MIGRATION, peer=peer())
    assert transitions.outgoing(aborted(), migration=OTHER, peer=peer()).migration == OTHER


def test_an_abort_that_overtakes_its_order_is_kept() -> None:
    early = transitions.aborted(running_record(), migration=MIGRATION)
    assert early.state is RecordState.RUNNING
    with refusal(Reason.ALREADY_ABORTED):
        transitions.outgoing(early, migration=MIGRATION, peer=peer())


def test_an_abort_returns_to_the_state_before() -> None:
    assert aborted().state is RecordState.RUNNING
    assert (aborted().migration, aborted().peer, aborted().before) == (None, None, None)
    stopped = transitions.ended(running_record(), None)
    moving = transitions.frozen(stopped, migration=MIGRATION, peer=peer())
    assert transitions.aborted(moving, migration=MIGRATION).state is RecordState.STOPPED


def test_a_container_that_ends_while_it_is_copied_stays_ended_after_an_abort() -> None:
    ended = transitions.ended(outgoing(), None)
    assert transitions.aborted(ended, migration=MIGRATION).state is RecordState.STOPPED


def test_the_list_of_aborted_migrations_is_bounded_and_keeps_the_newest() -> None:
    record = running_record()
    for number in range(ABORTED_MIGRATIONS_KEPT + 5):
        record = transitions.aborted(record, migration=f"m-{number}")
    assert len(record.aborted) == ABORTED_MIGRATIONS_KEPT
    assert record.aborted[-1] == f"m-{ABORTED_MIGRATIONS_KEPT + 4}"


def test_a_second_migration_waits_for_the_first() -> None:
    with refusal(Reason.IN_MIGRATION):
        transitions.outgoing(outgoing(), migration=OTHER, peer=peer())


@pytest.mark.parametrize(
    ("notice", "reason"),
    [
        (go(verdict=Verdict.ABORTED), Reason.NOT_PERMITTED),
        (go(verdict=Verdict.UNDECIDED), Reason.NOT_PERMITTED),
        (go(verdict=Verdict.UNKNOWN), Reason.NOT_PERMITTED),
        (go(epoch=1), Reason.STALE_EPOCH),
        (go(epoch=3), Reason.STALE_EPOCH),
        (go(migration=OTHER), Reason.WRONG_STATE),
    ],
)
def test_a_held_copy_runs_on_nothing_but_the_right_verdict(
    notice: VerdictNotice, reason: Reason
) -> None:
    with refusal(reason):
        transitions.running(held(), notice)


def test_a_held_copy_runs_on_released_and_a_repeated_verdict_is_answered() -> None:
    owner = transitions.running(held(), go())
    assert (owner.state, owner.epoch, owner.migration) == (RecordState.RUNNING, 2, None)
    assert owner.arrived_by == MIGRATION
    assert transitions.running(owner, go()) == owner


def test_an_incoming_copy_does_not_run() -> None:
    with refusal(Reason.WRONG_STATE):
        transitions.running(incoming(), go())


def test_a_container_keeps_its_restarts_over_a_migration() -> None:
    assert incoming().restarts == 3


def test_a_container_comes_back_over_its_released_record() -> None:
    back = transitions.incoming(released(), incoming_order(epoch=3, migration=OTHER), boot=BOOT)
    assert (back.state, back.epoch) == (RecordState.INCOMING, 3)
    with refusal(Reason.STALE_EPOCH):
        transitions.incoming(released(), incoming_order(epoch=2, migration=OTHER), boot=BOOT)


def test_a_copy_that_runs_is_not_replaced_by_an_incoming_one() -> None:
    with refusal(Reason.ALREADY_HERE):
        transitions.incoming(running_record(), incoming_order(), boot=BOOT)


def test_a_held_copy_runs_when_the_source_node_is_fenced() -> None:
    assert transitions.running(held(), go(verdict=Verdict.FENCED)).state is RecordState.RUNNING
    with refusal(Reason.STALE_EPOCH):
        transitions.running(held(), go(verdict=Verdict.FENCED, epoch=1))


VERDICTS = {
    "no record": (None, Verdict.UNKNOWN),
    "another container's": (running_record(), Verdict.UNKNOWN),
    "copying": (outgoing(), Verdict.UNDECIDED),
    "frozen": (frozen(), Verdict.UNDECIDED),
    "released": (released(), Verdict.RELEASED),
    "aborted": (aborted(), Verdict.ABORTED),
    "the target preparing": (incoming(), Verdict.UNKNOWN),
    "the target holding": (held(), Verdict.UNKNOWN),
    "the target running": (transitions.running(held(), go()), Verdict.UNKNOWN),
}


@pytest.mark.parametrize(("record", "said"), VERDICTS.values(), ids=VERDICTS.keys())
def test_the_verdict_is_what_the_record_says(record: Record | None, said: Verdict) -> None:
    assert transitions.verdict(record, MIGRATION) is said


MOVES = {
    "order": lambda r: transitions.ordered(r, order(epoch=r.epoch), boot=BOOT),
    "depart": lambda r: transitions.outgoing(r, migration=MIGRATION, peer=peer()),
    "freeze": lambda r: transitions.frozen(r, migration=MIGRATION, peer=peer()),
    "release": lambda r: transitions.released(r, epoch=r.epoch + 1),
    "abort": lambda r: transitions.aborted(r, migration=MIGRATION),
    "end": lambda r: transitions.ended(r, None),
    "go": lambda r: transitions.running(r, go(epoch=r.epoch)),
    "hold": lambda r: transitions.held(r, boot=BOOT),
}


@given(st.lists(st.sampled_from(sorted(MOVES)), max_size=20))
def test_whatever_happens_a_released_copy_never_runs_and_one_verdict_excludes_the_other(
    moves: list[str],
) -> None:
    record, verdicts = running_record(), []
    for move in moves:
        try:
            record = MOVES[move](record)
        except Refused:
            continue
        verdicts.append(transitions.verdict(record, MIGRATION))
    final = [each for each in verdicts if each in {Verdict.RELEASED, Verdict.ABORTED}]
    assert len(set(final)) <= 1
    if Verdict.RELEASED in verdicts:
        assert record.state not in OWNED
        assert verdicts[verdicts.index(Verdict.RELEASED) :] == [Verdict.RELEASED] * (
            len(verdicts) - verdicts.index(Verdict.RELEASED)
        )
