"""Migrations as history."""

from __future__ import annotations

import pytest

from fakes.resources import NOW, ended, migration, placement, seconds
from transship.api.migration import ContainerMigration
from transship.api.placement import ContainerPlacement, MigrationSettings, Strategy
from transship.controller.migration.history import (
    expired_history,
    failures,
    is_finished,
    migration_name,
    next_attempt,
    next_attempt_time,
    resolve_strategy,
    unfinished,
    unsettled_nodes,
    was_cancelled,
    was_released,
)


def test_a_migration_is_finished_by_its_condition_alone() -> None:
    assert not is_finished(migration(phase="Succeeded"))
    assert is_finished(ended(migration(), good=True))
    assert is_finished(ended(migration(), good=False))
    assert was_cancelled(ended(migration(), good=False, reason="MigrationSuperseded"))


def test_the_oldest_unfinished_one_runs() -> None:
    first, second = migration(attempt=1), migration(attempt=2)
    assert unfinished([second, first]) == first
    assert unfinished([ended(first, good=False), second]) == second


def test_a_failure_after_the_release_still_gave_the_container_away() -> None:
    assert was_released(ended(migration(), good=False, source_state="Released"))
    assert not was_released(ended(migration(), good=False, source_state="Failed"))


@pytest.mark.parametrize(
    ("move", "unsettled"),
    [
        (migration(), {}),
        (ended(migration(), good=True, source_state="Done", target_state="Running"), {}),
        (ended(migration(), good=True, source_state="Released"), {"node-a": "web-1-1"}),
        (ended(migration(), good=True), {"node-a": "web-1-1"}),
        (ended(migration(), good=False, source_state="Released"), {"node-a": "web-1-1"}),
        (ended(migration(), good=False, source_state="Failed", target_state="Cancelled"), {}),
        (
            ended(migration(), good=False, source_state="Failed", target_state="Held"),
            {"node-b": "web-1-1"},
        ),
        (ended(migration(), good=False, target_state="Prepared"), {"node-b": "web-1-1"}),
        (ended(migration(), good=False), {}),
    ],
)
def test_who_may_still_have_something_of_a_move_that_is_over(
    move: ContainerMigration, unsettled: dict[str, str]
) -> None:
    assert unsettled_nodes([move]) == unsettled


def test_a_node_that_has_got_the_container_again_has_ended_what_it_had_before() -> None:
    back = migration(epoch=2, source="node-b", target="node-a")
    history = [
        ended(back, good=True, source_state="Done"),
        ended(migration(), good=True, source_state="Released"),
    ]
    assert unsettled_nodes(history) == {}


def test_only_failures_of_this_spec_and_epoch_count() -> None:
    counted = ended(migration(attempt=3), good=False)
    history = [
        counted,
        ended(migration(attempt=1, generation=7), good=False),
        ended(migration(epoch=2), good=False),
        ended(migration(attempt=2), good=False, reason="MigrationCancelled"),
        ended(migration(attempt=4), good=True),
    ]
    assert failures(history, placement(), epoch=1) == [counted]


def test_attempts_are_numbered_within_an_epoch() -> None:
    assert next_attempt([], epoch=1) == 1
    assert next_attempt([migration(attempt=4), migration(epoch=2)], epoch=1) == 5


def test_the_back_off_is_capped() -> None:
    many = [ended(migration(attempt=n), good=False) for n in range(1, 20)]
    assert next_attempt_time(many) == NOW + seconds(300)
    assert next_attempt_time([]) is None


def test_a_name_is_deterministic_and_never_too_long() -> None:
    assert migration_name("web", epoch=3, attempt=2) == "web-3-2"
    long = migration_name("a" * 253, epoch=12, attempt=345)
    assert len(long) == 253
    assert long.endswith("-12-345")


@pytest.mark.parametrize("wish", Strategy)
def test_a_running_container_is_moved_with_the_requested_strategy(wish: Strategy) -> None:
    assert resolve_strategy(wish, stopped=False) == (wish, "")


def test_a_container_that_does_not_run_is_moved_cold() -> None:
    assert resolve_strategy(Strategy.AUTO, stopped=True)[0] == Strategy.COLD


def made(**limits: int) -> ContainerPlacement:
    base = placement(metadata={"generation": 9})
    spec = base.spec.model_copy(update={"migration": MigrationSettings(**limits)})
    return base.model_copy(update={"spec": spec})


def nobody(_: str) -> bool:
    return False


def test_history_beyond_the_limits_expires_oldest_first() -> None:
    good = [ended(migration(epoch=n), good=True) for n in range(1, 6)]
    bad = [ended(migration(epoch=9, attempt=n), good=False) for n in range(1, 6)]
    running = migration(epoch=9, attempt=6)
    names = {
        m.metadata.name for m in expired_history([*good, *bad, running], made(), silent=nobody)
    }
    assert names == {"web-1-1", "web-2-1", "web-9-1", "web-9-2"}
    none = expired_history(good, made(successful_history_limit=0), silent=nobody)
    assert len(none) == 5


def test_failures_that_the_back_off_counts_are_kept() -> None:
    bad = [ended(migration(attempt=n, generation=9), good=False) for n in range(1, 6)]
    assert expired_history(bad, made(), silent=nobody) == []


def test_what_tells_of_a_silent_node_is_kept() -> None:
    """A deletion waits for that node; who answers tells of it by itself."""
    good = [ended(migration(), good=True, source_state="Released")]
    limits = made(successful_history_limit=0)
    assert expired_history(good, limits, silent=lambda node: node == "node-a") == []
    assert expired_history(good, limits, silent=nobody) == good
