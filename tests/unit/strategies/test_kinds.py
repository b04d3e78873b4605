"""What the strategies say of themselves."""

from __future__ import annotations

import pytest

from transship import strategies
from transship.api.placement import Strategy

LIVE = [name for name in Strategy if name is not Strategy.COLD]


@pytest.mark.parametrize("name", Strategy)
def test_every_name_of_the_api_has_its_strategy(name: Strategy) -> None:
    assert strategies.of(name).name is name


@pytest.mark.parametrize("name", LIVE)
def test_live_strategies_move_processes_with_criu(name: Strategy) -> None:
    strategy = strategies.of(name)
    assert strategy in strategies.LIVE
    assert strategy.needs_criu
    assert not strategy.ends_instance


def test_a_cold_move_ends_the_instance_and_needs_no_criu() -> None:
    assert not strategies.COLD.needs_criu
    assert strategies.COLD.ends_instance
    assert not strategies.COLD.copies_shared_memory_ahead


@pytest.mark.parametrize(
    ("name", "in_rounds", "follows"),
    [
        (Strategy.AUTO, True, False),
        (Strategy.PRE_COPY, True, False),
        (Strategy.POST_COPY, False, True),
        (Strategy.STOP_AND_COPY, False, False),
    ],
)
def test_memory_moves_before_inside_or_after_the_freeze(
    name: Strategy, in_rounds: bool, follows: bool
) -> None:
    strategy = strategies.of(name)
    assert strategy.copies_memory_in_rounds is in_rounds
    assert strategy.memory_follows is follows
    assert strategy.copies_shared_memory_ahead is (in_rounds or follows)


@pytest.mark.parametrize("name", Strategy)
def test_only_auto_begins_as_another_strategy_and_keeps_to_the_limit(name: Strategy) -> None:
    is_auto = name is Strategy.AUTO
    begin = strategies.of(name).at_start()
    assert begin.name is (Strategy.PRE_COPY if is_auto else name)
    assert strategies.of(name).keeps_downtime_limit is is_auto


@pytest.mark.parametrize("name", Strategy)
def test_a_stopped_container_moves_cold(name: Strategy) -> None:
    strategy = strategies.of(name)
    assert strategy.for_container(stopped=True) is strategies.COLD
    assert strategy.for_container(stopped=False) is strategy


def test_the_journal_tells_whether_the_memory_of_a_released_move_follows() -> None:
    assert strategies.after_release(memory_follows=True).memory_follows
    assert not strategies.after_release(memory_follows=False).memory_follows
