from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.orders import BOOT, ID, running_record
from transship.agent.janitor import OLD_ENOUGH_SECONDS, Janitor, Remains
from transship.agent.journal import Journal
from transship.api.reasons import Reason
from transship.common.errors import Refused

STRANGER = "0b5e2c1a-0000-4000-8000-0000000000ff"


class FakePremises:
    def __init__(self, **found: Remains) -> None:
        self.found: dict[str, Remains] = dict(found)
        self.failing = False
        self.meanwhile = lambda: None

    def remains(self) -> Mapping[str, Remains]:
        return dict(self.found)

    async def remove(self, container_id: str) -> None:
        self.meanwhile()
        if self.failing:
            raise Refused("deleting: something is mounted there")
        del self.found[container_id]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal", boot=BOOT, clock=FakeClock())
    made.load()
    return made


def found(*containers: str, alive: bool = False) -> FakePremises:
    return FakePremises(**{each: Remains(("files",), alive=alive) for each in containers})


async def test_what_no_record_owns_is_removed_and_nothing_else(journal: Journal) -> None:
    journal.put(running_record())
    premises = found(ID, STRANGER)
    janitor = Janitor(premises, journal=journal, clock=FakeClock())
    await janitor.sweep(old_enough_seconds=0)
    assert set(premises.found) == {ID}
    assert janitor.leftovers == {}


async def test_nothing_of_a_record_in_quarantine_is_touched(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "journal" / f"{ID}.json").write_bytes(b"torn")
    journal.load()
    premises = found(ID)
    await Janitor(premises, journal=journal, clock=FakeClock()).sweep(old_enough_seconds=0)
    assert set(premises.found) == {ID}


async def test_a_program_that_runs_is_told_and_left_alone(journal: Journal) -> None:
    premises = found(STRANGER, alive=True)
    janitor = Janitor(premises, journal=journal, clock=FakeClock())
    await janitor.sweep(old_enough_seconds=0)
    assert set(premises.found) == {STRANGER}
    (told,) = janitor.report()
    assert (told.container, told.alive) == (STRANGER, True)


async def test_later_only_what_has_been_nobodys_for_long_is_removed(journal: Journal) -> None:
    clock, premises = FakeClock(), found(STRANGER)
    janitor = Janitor(premises, journal=journal, clock=clock)
    await janitor.sweep(old_enough_seconds=OLD_ENOUGH_SECONDS)
    assert [each.container for each in janitor.report()] == [STRANGER]

    premises.found, away = {}, premises.found
    clock.pass_time(OLD_ENOUGH_SECONDS)
    await janitor.sweep(old_enough_seconds=OLD_ENOUGH_SECONDS)
    premises.found = away  # it is another thing now, and young
    await janitor.sweep(old_enough_seconds=OLD_ENOUGH_SECONDS)
    assert set(premises.found) == {STRANGER}

    clock.pass_time(OLD_ENOUGH_SECONDS)
    await janitor.sweep(old_enough_seconds=OLD_ENOUGH_SECONDS)
    assert premises.found == {}


async def test_what_cannot_be_removed_is_told_and_tried_again(journal: Journal) -> None:
    premises = found(STRANGER)
    premises.failing = True
    janitor = Janitor(premises, journal=journal, clock=FakeClock())
    await janitor.sweep(old_enough_seconds=0)
    assert [each.container for each in janitor.report()] == [STRANGER]
    premises.failing = False
    await janitor.sweep(old_enough_seconds=0)
    assert premises.found == {}


async def test_no_container_comes_here_while_its_leftovers_are_removed(journal: Journal) -> None:
    refusals = []

    def order_it() -> None:
        with pytest.raises(Refused) as caught:
            journal.put(running_record())
        refusals.append(caught.value.reason)

    premises = found(ID)
    premises.meanwhile = order_it
    await Janitor(premises, journal=journal, clock=FakeClock()).sweep(old_enough_seconds=0)
    assert refusals == [Reason.DELETING]
    journal.put(running_record())
