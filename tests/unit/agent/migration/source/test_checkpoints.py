"""The source's dump is made ready with its memory stream, and both end together."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from transship.agent.migration.source import checkpoints as module
from transship.agent.migration.source.checkpoints import NodeCheckpoints
from transship.agent.migration.source.deps import StreamOptions
from transship.agent.migration.source.memory_transfer import NodeMemoryTransfer
from transship.agentapi.migrations import MemoryEndpoint
from transship.api.placement import Compression
from transship.common.errors import TransshipError
from transship.runtime.layout import Layout
from transship.strategies import LIVE
from transship.streams.bandwidth_limit import BandwidthLimit

CONTAINER = "c"
PAGE_SERVER = MemoryEndpoint(address="10.0.0.2", port=1)
OPTIONS = StreamOptions(LIVE[0], BandwidthLimit(None), Compression.NONE)


@dataclass
class Streams:
    """Stands for the memory transfer: which containers have streams."""

    open: set[str] = field(default_factory=set)

    async def connect(self, container: str, **_: object) -> None:
        self.open.add(container)

    async def close(self, container: str) -> None:
        self.open.discard(container)


@dataclass
class Dumper:
    is_open: bool = True

    async def close(self) -> None:
        self.is_open = False


class NoEarlierMove:
    async def settle(self, container: str) -> None: ...


@dataclass
class Source:
    checkpoints: NodeCheckpoints
    streams: Streams
    dumper: Dumper
    fails: bool = False


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    streams = Streams()
    checkpoints = NodeCheckpoints(
        Layout(runtime_dir=tmp_path),
        memory=cast("Any", streams),
        restores=cast("Any", NoEarlierMove()),
    )
    made = Source(checkpoints, streams, Dumper())

    async def ready(request: object) -> Dumper:
        if made.fails:
            raise TransshipError("no CRIU")
        return made.dumper

    class Freezer:
        def processes(self) -> list[int]:
            return []

    monkeypatch.setattr(module, "freezer_of", lambda _: Freezer())
    monkeypatch.setattr("transship.criu.dump.Dumper.ready", ready)
    return made


async def make_ready(source: Source) -> None:
    await source.checkpoints.ready(CONTAINER, to=PAGE_SERVER, node="node-b", options=OPTIONS)


async def test_the_dump_and_its_streams_end_together(source: Source) -> None:
    await make_ready(source)
    assert source.streams.open == {CONTAINER}
    await source.checkpoints.unready(CONTAINER)
    assert not source.dumper.is_open
    assert source.streams.open == set()


async def test_a_dump_that_cannot_be_made_ready_leaves_no_streams(source: Source) -> None:
    source.fails = True
    with pytest.raises(TransshipError, match="no CRIU"):
        await make_ready(source)
    assert source.streams.open == set()


async def test_undoing_what_was_never_made_ready_is_harmless(source: Source) -> None:
    await source.checkpoints.unready(CONTAINER)


async def test_there_is_no_dump_that_was_not_made_ready(source: Source) -> None:
    with pytest.raises(TransshipError, match="nothing was made ready"):
        await source.checkpoints.dump(CONTAINER)


async def test_no_memory_is_sent_without_a_page_server(tmp_path: Path) -> None:
    memory = NodeMemoryTransfer(Layout(runtime_dir=tmp_path), cast("Any", None))
    with pytest.raises(TransshipError, match="no page server is connected"):
        await memory.send(CONTAINER)
    await memory.close(CONTAINER)
