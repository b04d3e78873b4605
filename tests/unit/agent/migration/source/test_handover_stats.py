import pytest

from transship.agent.migration.source.handover_stats import HandoverStats, cost_of
from transship.api.migration import BlackoutPart
from transship.memory.copy_progress import DEFAULT_HANDOVER_COST


def parts(**milliseconds: int) -> tuple[BlackoutPart, ...]:
    return tuple(BlackoutPart(name=n, microseconds=ms * 1000) for n, ms in milliseconds.items())


def test_waiting_for_pages_is_no_cost_of_a_handover_itself() -> None:
    cost = cost_of(
        0.3,
        parts(Dump=50, SyncFiles=5, SendState=2, Restore=193, TargetReceivePages=100),
        known=DEFAULT_HANDOVER_COST,
    )
    assert cost.fixed == pytest.approx(0.2)
    assert cost.overlap == pytest.approx(0.15)
    assert cost.measured


def test_a_restore_that_waited_for_its_own_pages_does_not_make_room_for_more_of_them() -> None:
    handover_stats = HandoverStats()
    for sent in (60, 180, 300):
        handover_stats.note(
            blackout=0.1 + sent / 1e3, parts=parts(SendMemory=sent, SendState=5, Restore=sent)
        )
    assert handover_stats.cost.overlap <= DEFAULT_HANDOVER_COST.overlap


def test_a_restore_that_is_slow_by_itself_does() -> None:
    handover_stats = HandoverStats()
    handover_stats.note(blackout=0.4, parts=parts(SendMemory=30, Restore=300))
    assert handover_stats.cost.overlap == pytest.approx(0.3)


def test_an_agent_without_experience_says_so() -> None:
    assert HandoverStats().cost is DEFAULT_HANDOVER_COST


def test_one_slow_handover_changes_nothing() -> None:
    handover_stats = HandoverStats()
    for blackout in (0.1, 0.11, 3.0, 0.12, 0.1):
        handover_stats.note(blackout=blackout, parts=parts(Restore=60))
    assert handover_stats.cost.fixed == pytest.approx(0.11)


def test_old_handovers_are_forgotten() -> None:
    handover_stats = HandoverStats()
    for blackout in (*[1.0] * 20, *[0.1] * 9):
        handover_stats.note(blackout=blackout, parts=())
    assert handover_stats.cost.fixed == pytest.approx(0.1)
