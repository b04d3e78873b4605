from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.orders import BOOT, ID, running_record
from transship.agent.janitor import IMAGES_SECONDS, OLD_ENOUGH_SECONDS, Janitor, Remains
from transship.agent.journal import Journal
from transship.api.reasons import Reason
from transship.common.errors import Refused
from transship.protocol.states import RecordState

STRANGER = "0b5e2c1a-0000-4000-8000-0000000000ff"


class FakePremises:
    def __init__(self, **found: Remains) -> None:
        self.found: dict[str, Remains] = dict(found)
        self.failing = False
        self.meanwhile = lambda: None
        self.prunings: list[tuple[frozenset[str], frozenset[str]]] = []

    def remains(self) -> Mapping[str, Remains]:
        return dict(self.found)

    async def remove(self, container_id: str) -> None:
        self.meanwhile()
        if self.failing:
            raise Refused("deleting: something is mounted there")
        del self.found[container_id]

    async def prune_images(
        self, *, in_use: Collection[str], unreadable: Collection[str]
    ) -> tuple[str, ...]:
        if self.failing:
            raise Refused("nobody knows the images")
        self.prunings.append((frozenset(in_use), frozenset(unreadable)))
        return ("sha256:unused",)


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


async def test_what_fails_in_a_way_nobody_thought_of_keeps_nothing_else_here(
    journal: Journal,
) -> None:
    premises = found("first", "second")

    def stumble() -> None:
        premises.meanwhile = lambda: None
        raise ValueError("a name that is no number")

    premises.meanwhile = stumble
    janitor = Janitor(premises, journal=journal, clock=FakeClock())
    await janitor.sweep(old_enough_seconds=0)
    assert set(premises.found) == {"first"}


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


async def test_images_go_at_the_start_and_now_and_then_but_for_those_of_records(
    journal: Journal,
) -> None:
    record = running_record()
    order = record.order.model_copy(update={"image_digest": "sha256:ordered"})
    journal.put(record.but(order=order, image_digest="sha256:used"))
    clock, premises = FakeClock(), found()
    janitor = Janitor(premises, journal=journal, clock=clock)
    await janitor.prune_images()
    await janitor.prune_images()
    once = (frozenset({"sha256:ordered", "sha256:used"}), frozenset())
    assert premises.prunings == [once]
    clock.pass_time(IMAGES_SECONDS)
    await janitor.prune_images()
    assert premises.prunings == [once, once]


async def test_a_janitor_begins_with_the_images_too(journal: Journal) -> None:
    premises = found(STRANGER)
    running = asyncio.create_task(Janitor(premises, journal=journal, clock=FakeClock()).run())
    async with asyncio.timeout(5):
        while not premises.prunings:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert premises.found == {}


async def test_images_of_a_record_in_quarantine_are_for_the_node_to_know(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "journal" / f"{ID}.json").write_bytes(b"torn")
    journal.load()
    premises = found()
    await Janitor(premises, journal=journal, clock=FakeClock()).prune_images()
    assert premises.prunings == [(frozenset(), frozenset({ID}))]


@pytest.mark.parametrize("state", [RecordState.FROZEN, RecordState.HELD])
async def test_no_image_is_deleted_beside_a_handover(journal: Journal, state: RecordState) -> None:
    record = journal.put(running_record())
    journal.put(record.but(state=state))
    premises = found()
    janitor = Janitor(premises, journal=journal, clock=FakeClock())
    await janitor.prune_images()
    assert premises.prunings == []
    journal.put(record)
    await janitor.prune_images()
    assert len(premises.prunings) == 1


async def test_images_that_cannot_be_removed_do_not_stop_the_janitor(journal: Journal) -> None:
    premises = found()
    premises.failing = True
    await Janitor(premises, journal=journal, clock=FakeClock()).prune_images()
    assert premises.prunings == []
