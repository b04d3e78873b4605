from __future__ import annotations

from pathlib import Path

import pytest

from model.table import BEGIN, END, EVENTS, STATES, outcome, render
from transship.agentapi.states import RecordState

HANDOVER = Path(__file__).parents[2] / "docs" / "handover.md"


def test_the_documented_transitions_are_those_of_the_code() -> None:
    documented = HANDOVER.read_text().partition(BEGIN)[2].partition(END)[0]
    assert documented.strip() == render().strip(), "see tests/model/table.py"


def test_every_state_of_a_record_is_in_the_table() -> None:
    assert {record.state for record in STATES.values() if record} == set(RecordState)


@pytest.mark.parametrize("event", EVENTS)
def test_what_was_released_stays_so_unless_a_later_move_brings_it_back(event: str) -> None:
    expected = ("=", "(", "Incoming(3)")
    assert outcome("Released(2)", event).startswith(expected)


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_but_the_release_makes_a_held_copy_run(event: str) -> None:
    expected = ("Running(2)",) if event == "go on Released(2)" else ("=", "(")
    assert outcome("Held(2)", event).startswith(expected)
