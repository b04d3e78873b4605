"""What a move of one of this node's containers would be like, without moving anything.

The container runs on meanwhile. Only one of a look and a move can follow a container's writes: a
move that begins ends the look.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transship.agent.journal.record import Record
from transship.agent.journal.store import Journal
from transship.agent.migration.ports import Bundles
from transship.agent.migration.source.handover_stats import HandoverStats
from transship.agentapi.paths import STREAM_PORT
from transship.agentapi.predictions import Forecast, PredictionRequest
from transship.agentapi.states import RecordState
from transship.common.errors import NotFound, Refused
from transship.files.change_detection import take_snapshot
from transship.linux.pages import PAGE_BYTES, Process
from transship.memory import prediction as plan
from transship.memory.prediction import Load, Sample
from transship.memory.probe import MemoryProbe, Probe
from transship.memory.tracking.digest_tracker import Tracker
from transship.streams import link_rate

Processes = Callable[[str], Sequence[Process]]


@dataclass(frozen=True)
class _Looking:
    probe: Probe
    over: asyncio.Event


class Predictions:
    """The looks that are under way, at most one per container."""

    def __init__(
        self,
        journal: Journal,
        *,
        bundles: Bundles,
        processes: Processes,
        tracker: Callable[[str], Tracker],
        streams: ssl.SSLContext,
        handover_stats: HandoverStats,
    ) -> None:
        self._journal = journal
        self._bundles = bundles
        self._processes = processes
        self._tracker = tracker
        self._streams = streams
        self._handover_stats = handover_stats
        self._looking: dict[str, _Looking] = {}

    async def forecast(self, container: str, order: PredictionRequest) -> Forecast:
        """Raises NotFound, Refused while it moves or does not run, Unreachable."""
        record = self._movable(container)
        rate = await link_rate.measure(
            order.target.address, port=STREAM_PORT, context=self._streams, node=order.target.node
        )
        seen = await self._look(container)
        files = await asyncio.to_thread(self._file_bytes, record)
        load = Load(
            pages=seen.pages,
            zero_pages=round(seen.pages * seen.zero_share),
            changes=tuple(Sample(seconds, pages) for seconds, pages in seen.changes),
            link_rate=rate,
            packed=min(1.0, seen.packed_share),
            file_bytes=files,
        )
        found = plan.predict(load, settings=order.settings, cost=self._handover_stats.cost)
        return told(load, found)

    async def end(self, container: str) -> None:
        """A move begins, which follows the container's writes itself."""
        looking = self._looking.get(container)
        if looking is not None:
            looking.probe.stop()
            await looking.over.wait()

    def _movable(self, container: str) -> Record:
        record = self._journal.get(container)
        if record is None:
            raise NotFound(f"container {container} is not on this node")
        if record.state is not RecordState.RUNNING or record.migration is not None:
            doing = "is being moved" if record.migration is not None else f"is {record.state}"
            raise Refused(f"container {container} {doing}", reason="WrongState")
        if container in self._looking:
            raise Refused(f"somebody looks at container {container} already", hint="try again")
        return record

    async def _look(self, container: str) -> MemoryProbe:
        self._movable(container)  # it may have changed while the link was measured
        probe = Probe(lambda: self._processes(container), self._tracker(container))
        looking = self._looking[container] = _Looking(probe, asyncio.Event())
        task = asyncio.create_task(asyncio.to_thread(probe.look))
        task.add_done_callback(lambda _: self._ended(container, looking))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:  # whoever asked has gone: the thread ends soon
            probe.stop()
            raise

    def _ended(self, container: str, looking: _Looking) -> None:
        self._looking.pop(container, None)
        looking.over.set()

    def _file_bytes(self, record: Record) -> int:
        home: Path = self._bundles.home(record.id)
        return take_snapshot(home, self._bundles.trees(record).names).size


def told(load: Load, found: plan.Forecast) -> Forecast:
    why = found.obstacle
    return Forecast(
        strategy=found.strategy,
        prediction=found.prediction,
        choice=found.choice,
        memory_bytes=load.pages * PAGE_BYTES,
        zero_bytes=load.zero_pages * PAGE_BYTES,
        dirty_rate=round(load.changes_per_second),
        link_rate=round(load.link_rate),
        compressed_percent=round(load.packed * 100),
        file_bytes=load.file_bytes,
        seconds=load.changes[-1].seconds if load.changes else 0.0,
        reason="" if why is None else why.reason,
        message="" if why is None else why.message,
        hint="" if why is None else why.hint,
    )
