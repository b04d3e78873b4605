from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.orders import BOOT, ID, running_record
from transship.agent.journal.store import Journal
from transship.agent.node.garbage_collection import (
    IMAGES_SECONDS,
    MIN_AGE_SECONDS,
    ContainerLeftovers,
    GarbageCollector,
    Leftovers,
)
from transship.agentapi.states import RecordState
from transship.api.reasons import Reason
from transship.common.errors import Refused

STRANGER = "0b5e2c1a-0000-4000-8000-0000000000ff"


class FakeLeftovers(Leftovers):
    def __init__(self, **present: ContainerLeftovers) -> None:
        self.present: dict[str, ContainerLeftovers] = dict(present)
        self.failing = False
        self.meanwhile: Callable[[], object] = lambda: None
        self.prunings: list[tuple[frozenset[str], frozenset[str]]] = []

    def find(self) -> Mapping[str, ContainerLeftovers]:
        return dict(self.present)

    async def remove(self, container_id: str) -> None:
        self.meanwhile()
        if self.failing:
            raise Refused("deleting: something is mounted there")
        del self.present[container_id]

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


def leftovers_of(*containers: str, alive: bool = False) -> FakeLeftovers:
    return FakeLeftovers(
        **{each: ContainerLeftovers(("files",), alive=alive) for each in containers}
    )


async def test_leftovers_without_a_record_are_removed_and_nothing_else(journal: Journal) -> None:
    journal.put(running_record())
    leftovers = leftovers_of(ID, STRANGER)
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=FakeClock())
    await garbage_collector.sweep(min_age_seconds=0)
    assert set(leftovers.present) == {ID}
    assert garbage_collector.leftovers == {}


async def test_nothing_of_a_record_in_quarantine_is_touched(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "journal" / f"{ID}.json").write_bytes(b"torn")
    journal.load()
    leftovers = leftovers_of(ID)
    await GarbageCollector(leftovers, journal=journal, clock=FakeClock()).sweep(min_age_seconds=0)
    assert set(leftovers.present) == {ID}


async def test_leftovers_with_a_running_process_are_reported_and_stay(journal: Journal) -> None:
    leftovers = leftovers_of(STRANGER, alive=True)
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=FakeClock())
    await garbage_collector.sweep(min_age_seconds=0)
    assert set(leftovers.present) == {STRANGER}
    (leftover,) = garbage_collector.report()
    assert (leftover.container, leftover.alive) == (STRANGER, True)


async def test_after_the_start_only_old_leftovers_are_removed(journal: Journal) -> None:
    clock, leftovers = FakeClock(), leftovers_of(STRANGER)
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=clock)
    await garbage_collector.sweep(min_age_seconds=MIN_AGE_SECONDS)
    assert [leftover.container for leftover in garbage_collector.report()] == [STRANGER]

    leftovers.present, away = {}, leftovers.present
    clock.pass_time(MIN_AGE_SECONDS)
    await garbage_collector.sweep(min_age_seconds=MIN_AGE_SECONDS)
    leftovers.present = away  # they are other leftovers now, and young
    await garbage_collector.sweep(min_age_seconds=MIN_AGE_SECONDS)
    assert set(leftovers.present) == {STRANGER}

    clock.pass_time(MIN_AGE_SECONDS)
    await garbage_collector.sweep(min_age_seconds=MIN_AGE_SECONDS)
    assert leftovers.present == {}


async def test_leftovers_that_cannot_be_removed_are_reported_and_tried_again(
    journal: Journal,
) -> None:
    leftovers = leftovers_of(STRANGER)
    leftovers.failing = True
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=FakeClock())
    await garbage_collector.sweep(min_age_seconds=0)
    assert [leftover.container for leftover in garbage_collector.report()] == [STRANGER]
    leftovers.failing = False
    await garbage_collector.sweep(min_age_seconds=0)
    assert leftovers.present == {}


async def test_an_unexpected_error_at_one_container_stops_no_other_removal(
    journal: Journal,
) -> None:
    leftovers = leftovers_of("first", "second")

    def stumble() -> None:
        leftovers.meanwhile = lambda: None
        raise ValueError("a name that is no number")

    leftovers.meanwhile = stumble
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=FakeClock())
    await garbage_collector.sweep(min_age_seconds=0)
    assert set(leftovers.present) == {"first"}


async def test_no_container_comes_here_while_its_leftovers_are_removed(journal: Journal) -> None:
    refusals = []

    def order_it() -> None:
        with pytest.raises(Refused) as caught:
            journal.put(running_record())
        refusals.append(caught.value.reason)

    leftovers = leftovers_of(ID)
    leftovers.meanwhile = order_it
    await GarbageCollector(leftovers, journal=journal, clock=FakeClock()).sweep(min_age_seconds=0)
    assert refusals == [Reason.DELETING]
    journal.put(running_record())


async def test_images_go_at_the_start_and_now_and_then_but_for_those_of_records(
    journal: Journal,
) -> None:
    record = running_record()
    order = record.order.model_copy(update={"image_digest": "sha256:ordered"})
    journal.put(record.but(order=order, image_digest="sha256:used"))
    clock, leftovers = FakeClock(), leftovers_of()
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=clock)
    await garbage_collector.prune_images()
    await garbage_collector.prune_images()
    once = (frozenset({"sha256:ordered", "sha256:used"}), frozenset[str]())
    assert leftovers.prunings == [once]
    clock.pass_time(IMAGES_SECONDS)
    await garbage_collector.prune_images()
    assert leftovers.prunings == [once, once]


async def test_the_first_sweep_prunes_images_too(journal: Journal) -> None:
    leftovers = leftovers_of(STRANGER)
    running = asyncio.create_task(
        GarbageCollector(leftovers, journal=journal, clock=FakeClock()).run()
    )
    async with asyncio.timeout(5):
        while not leftovers.prunings:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert leftovers.present == {}


async def test_images_of_a_record_in_quarantine_are_for_the_node_to_know(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "journal" / f"{ID}.json").write_bytes(b"torn")
    journal.load()
    leftovers = leftovers_of()
    await GarbageCollector(leftovers, journal=journal, clock=FakeClock()).prune_images()
    assert leftovers.prunings == [(frozenset(), frozenset({ID}))]


@pytest.mark.parametrize("state", [RecordState.FROZEN, RecordState.HELD])
async def test_no_image_is_deleted_beside_a_handover(journal: Journal, state: RecordState) -> None:
    record = journal.put(running_record())
    journal.put(record.but(state=state))
    leftovers = leftovers_of()
    garbage_collector = GarbageCollector(leftovers, journal=journal, clock=FakeClock())
    await garbage_collector.prune_images()
    assert leftovers.prunings == []
    journal.put(record)
    await garbage_collector.prune_images()
    assert len(leftovers.prunings) == 1


async def test_images_that_cannot_be_removed_do_not_stop_the_garbage_collection(
    journal: Journal,
) -> None:
    leftovers = leftovers_of()
    leftovers.failing = True
    await GarbageCollector(leftovers, journal=journal, clock=FakeClock()).prune_images()
    assert leftovers.prunings == []
