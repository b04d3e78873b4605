"""What a move of one of this node's containers would be like, without moving anything.

The container runs on meanwhile. Only one reader can track a container's writes: a move that begins
ends the probe.
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
from transship.agentapi.predictions import PredictionReply, PredictionRequest
from transship.agentapi.states import RecordState
from transship.common.errors import NotFound, Refused
from transship.files.change_detection import take_snapshot
from transship.linux.pages import PAGE_BYTES
from transship.linux.processes import Process
from transship.memory import prediction as memory_prediction
from transship.memory.prediction import ChangeSample, Measurements
from transship.memory.probe import MemoryProbe, ProbeResult
from transship.memory.tracking.tracker import Tracker
from transship.streams import link_rate

Processes = Callable[[str], Sequence[Process]]


@dataclass(frozen=True)
class _RunningProbe:
    probe: MemoryProbe
    over: asyncio.Event


class Predictions:
    """Predicts moves; at most one probe runs per container."""

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
        self._probes: dict[str, _RunningProbe] = {}

    async def predict(self, container: str, order: PredictionRequest) -> PredictionReply:
        """Probe the container and the link, then predict.

        Raises NotFound, Refused while the container moves or does not run, and Unreachable.
        """
        record = self._movable(container)
        rate = await link_rate.measure(
            order.target.address, port=STREAM_PORT, context=self._streams, node=order.target.node
        )
        probed = await self._probe(container)
        files = await asyncio.to_thread(self._file_bytes, record)
        measurements = Measurements(
            pages=probed.pages,
            zero_pages=round(probed.pages * probed.zero_share),
            changes=tuple(ChangeSample(seconds, pages) for seconds, pages in probed.changes),
            link_rate=rate,
            compressed_share=min(1.0, probed.compressed_share),
            file_bytes=files,
        )
        predicted = memory_prediction.predict(
            measurements, settings=order.settings, cost=self._handover_stats.cost
        )
        return _reply(measurements, predicted)

    async def end(self, container: str) -> None:
        """End the probe: a move begins, which tracks the container's writes itself."""
        running = self._probes.get(container)
        if running is not None:
            running.probe.stop()
            await running.over.wait()

    def _movable(self, container: str) -> Record:
        record = self._journal.get(container)
        if record is None:
            raise NotFound(f"container {container} is not on this node")
        if record.state is not RecordState.RUNNING or record.migration is not None:
            doing = "is being moved" if record.migration is not None else f"is {record.state}"
            raise Refused(f"container {container} {doing}", reason="WrongState")
        if container in self._probes:
            raise Refused(f"container {container} is already being probed", hint="try again")
        return record

    async def _probe(self, container: str) -> ProbeResult:
        # again: it may have changed while the link was measured
        self._movable(container)
        probe = MemoryProbe(lambda: self._processes(container), self._tracker(container))
        running = self._probes[container] = _RunningProbe(probe, asyncio.Event())
        task = asyncio.create_task(asyncio.to_thread(probe.run))
        task.add_done_callback(lambda _: self._ended(container, running))
        try:
            return await asyncio.shield(task)
        # the client has gone: the thread ends soon
        except asyncio.CancelledError:
            probe.stop()
            raise

    def _ended(self, container: str, running: _RunningProbe) -> None:
        self._probes.pop(container, None)
        running.over.set()

    def _file_bytes(self, record: Record) -> int:
        home: Path = self._bundles.home(record.id)
        return take_snapshot(home, self._bundles.trees(record).names).size


def _reply(
    measurements: Measurements, predicted: memory_prediction.PredictedMove
) -> PredictionReply:
    why = predicted.obstacle
    return PredictionReply(
        strategy=predicted.strategy,
        prediction=predicted.prediction,
        choice=predicted.choice,
        memory_bytes=measurements.pages * PAGE_BYTES,
        zero_bytes=measurements.zero_pages * PAGE_BYTES,
        dirty_rate=round(measurements.changes_per_second),
        link_rate=round(measurements.link_rate),
        compressed_percent=round(measurements.compressed_share * 100),
        file_bytes=measurements.file_bytes,
        seconds=measurements.changes[-1].seconds if measurements.changes else 0.0,
        reason="" if why is None else why.reason,
        message="" if why is None else why.message,
        hint="" if why is None else why.hint,
    )
