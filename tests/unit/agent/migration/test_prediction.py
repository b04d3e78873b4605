from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path

import pytest

from fakes.agent_world import FakeBundles, Lifetime, Place, World
from fakes.orders import ID, order
from transship.agent.journal import transitions
from transship.agent.journal.store import Journal
from transship.agent.migration import prediction as module
from transship.agent.migration.prediction import Predictions
from transship.agent.migration.source.handover_stats import HandoverStats
from transship.agentapi.migrations import Peer
from transship.agentapi.predictions import PredictionRequest
from transship.common.errors import NotFound, Refused
from transship.linux.pages import PAGE_BYTES
from transship.memory.probe import ProbeResult
from transship.memory.tracking.tracker import Untracked
from transship.streams import link_rate

TARGET = Peer(node="node-b", address="10.0.0.2", endpoint="https://x")
SEEN = ProbeResult(pages=1000, zero_share=0.5, compressed_share=0.4, changes=((1.0, 10),))


class SlowProbe:
    """Looks until it is told to stop, or for as long as the test lets it."""

    made: list[SlowProbe] = []
    begun = asyncio.Event()

    def __init__(self, *_: object) -> None:
        self.stopped = threading.Event()
        SlowProbe.made.append(self)
        SlowProbe.begun.set()

    def stop(self) -> None:
        self.stopped.set()

    def run(self) -> ProbeResult:
        self.stopped.wait(10)
        return SEEN


class QuickProbe(SlowProbe):
    def run(self) -> ProbeResult:
        return SEEN


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal", boot="b")
    made.load()
    made.put(transitions.ordered(None, order(), boot="b"))
    return made


@pytest.fixture
def predictions(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictions:
    async def measured(*_: object, **__: object) -> float:
        return 100e6

    monkeypatch.setattr(link_rate, "measure", measured)
    monkeypatch.setattr(module, "MemoryProbe", QuickProbe)
    SlowProbe.made.clear()
    SlowProbe.begun = asyncio.Event()
    (tmp_path / "home").mkdir()
    return Predictions(
        journal,
        bundles=FakeBundles(Place("node-a", World(), Lifetime(), tmp_path)),
        processes=lambda _: [],
        tracker=lambda _: Untracked(),
        streams=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        handover_stats=HandoverStats(),
    )


async def test_the_reply_has_the_measurements_and_the_prediction(predictions: Predictions) -> None:
    found = await predictions.predict(ID, PredictionRequest(target=TARGET))
    assert found.memory_bytes == 1000 * PAGE_BYTES
    assert found.zero_bytes == 500 * PAGE_BYTES
    assert found.dirty_rate == 10 * PAGE_BYTES
    assert found.link_rate == 100e6
    assert found.compressed_percent == 40
    assert found.prediction is not None
    assert found.reason == ""


async def test_a_container_that_moves_or_is_not_here_is_not_probed(
    predictions: Predictions, journal: Journal
) -> None:
    with pytest.raises(NotFound):
        await predictions.predict("another", PredictionRequest(target=TARGET))
    record = journal.get(ID)
    assert record is not None
    journal.put(transitions.outgoing(record, migration="m-1", peer=TARGET))
    with pytest.raises(Refused, match="is being moved"):
        await predictions.predict(ID, PredictionRequest(target=TARGET))


async def test_a_move_ends_the_probe_before_it_tracks_writes_itself(
    predictions: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MemoryProbe", SlowProbe)
    predicting = asyncio.create_task(predictions.predict(ID, PredictionRequest(target=TARGET)))
    await SlowProbe.begun.wait()
    with pytest.raises(Refused, match="already"):
        await predictions.predict(ID, PredictionRequest(target=TARGET))
    await predictions.end(ID)
    assert SlowProbe.made[0].stopped.is_set()
    assert (await predicting).memory_bytes > 0
    await predictions.end(ID)


async def test_a_client_that_goes_away_ends_the_probe(
    predictions: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MemoryProbe", SlowProbe)
    predicting = asyncio.create_task(predictions.predict(ID, PredictionRequest(target=TARGET)))
    await SlowProbe.begun.wait()
    predicting.cancel()
    await asyncio.wait([predicting])
    await predictions.end(ID)
    assert SlowProbe.made[0].stopped.is_set()
