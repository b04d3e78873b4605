from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path

import pytest

from fakes.agent_world import FakeBundles, Life, Place, World
from fakes.orders import ID, order
from transship.agent import forecasts as module
from transship.agent import records
from transship.agent.experience import Experience
from transship.agent.forecasts import Forecasts
from transship.agent.journal import Journal
from transship.common.errors import NotFound, Refused
from transship.protocol.forecasts import ForecastOrder
from transship.protocol.migrations import Peer
from transship.transfer.changed_pages import Untracked
from transship.transfer.memory_look import MemoryLook
from transship.transfer.page_ranges import PAGE_BYTES

TARGET = Peer(node="node-b", address="10.0.0.2", endpoint="https://x")
SEEN = MemoryLook(pages=1000, zero_share=0.5, packed_share=0.4, changes=((1.0, 10),))


class SlowLooker:
    """Looks until it is told to stop, or for as long as the test lets it."""

    made: list[SlowLooker] = []
    begun = asyncio.Event()

    def __init__(self, *_: object) -> None:
        self.stopped = threading.Event()
        SlowLooker.made.append(self)
        SlowLooker.begun.set()

    def stop(self) -> None:
        self.stopped.set()

    def look(self) -> MemoryLook:
        self.stopped.wait(10)
        return SEEN


class QuickLooker(SlowLooker):
    def look(self) -> MemoryLook:
        return SEEN


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal", boot="b")
    made.load()
    made.put(records.ordered(None, order(), boot="b"))
    return made


@pytest.fixture
def forecasts(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forecasts:
    async def measured(*_: object, **__: object) -> float:
        return 100e6

    monkeypatch.setattr(module.link_rate, "measure", measured)
    monkeypatch.setattr(module, "Looker", QuickLooker)
    SlowLooker.made.clear()
    SlowLooker.begun = asyncio.Event()
    (tmp_path / "home").mkdir()
    return Forecasts(
        journal,
        bundles=FakeBundles(Place("node-a", World(), Life(), tmp_path)),
        processes=lambda _: [],
        tracker=lambda _: Untracked(),
        streams=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        experience=Experience(),
    )


async def test_what_was_measured_is_told_with_what_follows(forecasts: Forecasts) -> None:
    found = await forecasts.forecast(ID, ForecastOrder(target=TARGET))
    assert found.memory_bytes == 1000 * PAGE_BYTES
    assert found.zero_bytes == 500 * PAGE_BYTES
    assert found.dirty_rate == 10 * PAGE_BYTES
    assert found.link_rate == 100e6
    assert found.compressed_percent == 40
    assert found.prediction is not None
    assert found.reason == ""


async def test_a_container_that_moves_or_is_not_here_is_not_looked_at(
    forecasts: Forecasts, journal: Journal
) -> None:
    with pytest.raises(NotFound):
        await forecasts.forecast("another", ForecastOrder(target=TARGET))
    record = journal.get(ID)
    assert record is not None
    journal.put(records.departing(record, migration="m-1", peer=TARGET))
    with pytest.raises(Refused, match="is being moved"):
        await forecasts.forecast(ID, ForecastOrder(target=TARGET))


async def test_a_move_ends_the_look_before_it_follows_the_writes_itself(
    forecasts: Forecasts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Looker", SlowLooker)
    looking = asyncio.create_task(forecasts.forecast(ID, ForecastOrder(target=TARGET)))
    await SlowLooker.begun.wait()
    with pytest.raises(Refused, match="already"):
        await forecasts.forecast(ID, ForecastOrder(target=TARGET))
    await forecasts.end(ID)
    assert SlowLooker.made[0].stopped.is_set()
    assert (await looking).memory_bytes > 0
    await forecasts.end(ID)


async def test_whoever_asks_and_goes_away_ends_the_look(
    forecasts: Forecasts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Looker", SlowLooker)
    looking = asyncio.create_task(forecasts.forecast(ID, ForecastOrder(target=TARGET)))
    await SlowLooker.begun.wait()
    looking.cancel()
    await asyncio.wait([looking])
    await forecasts.end(ID)
    assert SlowLooker.made[0].stopped.is_set()
