"""Conditions: when the transition time moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from transship.api.conditions import (
    Condition,
    Status,
    condition,
    find,
    is_true,
    with_condition,
    without,
)

BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
NOW = BEFORE + timedelta(hours=1)


def ready(status: Status | bool, *, now: datetime, reason: str = "Placed") -> Condition:
    return condition("Ready", status, reason=reason, now=now)


def test_the_transition_time_stays_while_the_status_does() -> None:
    (kept,) = with_condition([ready(True, now=BEFORE)], ready(True, now=NOW, reason="Other"))
    assert (kept.last_transition_time, kept.reason) == (BEFORE, "Other")


@pytest.mark.parametrize("status", [False, Status.UNKNOWN])
def test_the_transition_time_moves_when_the_status_flips(status: Status | bool) -> None:
    (flipped,) = with_condition([ready(True, now=BEFORE)], ready(status, now=NOW))
    assert flipped.last_transition_time == NOW


def test_conditions_are_sorted_by_type() -> None:
    conditions = with_condition([ready(True, now=NOW)], condition("A", True, reason="X", now=NOW))
    assert [c.type for c in conditions] == ["A", "Ready"]


def test_an_absent_condition_is_not_true() -> None:
    assert not is_true([], "Ready")
    assert find([], "Ready") is None


def test_only_the_status_true_is_true() -> None:
    assert is_true([ready(True, now=NOW)], "Ready")
    assert not is_true([ready(Status.UNKNOWN, now=NOW)], "Ready")


def test_a_condition_can_be_taken_away() -> None:
    assert without([ready(True, now=NOW)], "Ready") == ()


def test_a_message_that_is_too_long_is_cut() -> None:
    long = condition("Ready", True, reason="X", message="m" * 40000, now=NOW)
    assert len(long.message) == 32768


def test_times_are_whole_seconds_of_utc() -> None:
    later = NOW + timedelta(milliseconds=900)
    assert ready(True, now=later).dump()["lastTransitionTime"] == "2026-01-01T01:00:00Z"
