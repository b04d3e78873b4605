"""A short look at the memory of a running container: how much there is, and how fast it changes.

Nothing is sent. Where the kernel tells of writes they are counted; else a sample of the pages is
read again and compared. Blocking: for a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from transship.linux.pages import PAGE_BYTES, PageRange, batches, total
from transship.linux.process_memory import BATCH_PAGES, MemoryReader
from transship.linux.processes import Process
from transship.memory.tracking.digest_tracker import DigestTracker
from transship.memory.tracking.tracker import Tracker
from transship.memory.transfer.packing import Packer
from transship.memory.transfer.sender import zero_marks

COUNT_AT_SECONDS = (0.1, 0.3, 0.6, 1.0, 1.5)
"""When changes are counted: pages that are written again and again show only with time."""
SAMPLE_BATCHES = 128
"""Of 1 MiB each, spread over the memory: read for their content."""


@dataclass(frozen=True)
class ProbeResult:
    """Shares are of the pages that are not zeros (packed), and of all (zeros)."""

    pages: int
    zero_share: float
    compressed_share: float
    changes: tuple[tuple[float, int], ...]


class MemoryProbe:
    """Looks at one container; `stop` from any thread ends it soon."""

    def __init__(self, processes: Callable[[], Sequence[Process]], tracker: Tracker) -> None:
        self._processes = processes
        self._tracker = tracker
        self._stopped = threading.Event()
        self._buffer = bytearray(BATCH_PAGES * PAGE_BYTES)

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> ProbeResult:
        try:
            return self._measure()
        finally:
            self._tracker.close()

    def _measure(self) -> ProbeResult:
        found = [(process, self._tracker.candidates(process)) for process in self._processes()]
        began = time.monotonic()
        pages = sum(total(ranges) for _, ranges in found)
        sample = list(_spread(found))
        zeros, packed = self._content(sample)
        changes = self._changes(began) or self._compared(sample, pages)
        return ProbeResult(pages, zeros, packed, changes)

    def _changes(self, began: float) -> tuple[tuple[float, int], ...]:
        """By the kernel's record; nothing where it has none of some process."""
        changes: list[tuple[float, int]] = []
        for seconds in COUNT_AT_SECONDS:
            if self._stopped.wait(max(0.0, began + seconds - time.monotonic())):
                break
            counts = [self._tracker.count_changed(process) for process in self._processes()]
            known = [count for count in counts if count is not None]
            if len(known) < len(counts):
                return ()
            changes.append((time.monotonic() - began, sum(known)))
        return tuple(changes)

    def _compared(
        self, sample: Sequence[tuple[Process, tuple[PageRange, ...]]], pages: int
    ) -> tuple[tuple[float, int], ...]:
        """By reading the sample twice."""
        digests = DigestTracker()
        looked = sum(total(ranges) for _, ranges in sample)
        self._differing(digests, sample)
        began = time.monotonic()
        self._stopped.wait(COUNT_AT_SECONDS[-1])
        changed = self._differing(digests, sample)
        return ((time.monotonic() - began, round(pages * changed / max(looked, 1))),)

    def _differing(
        self, digests: DigestTracker, sample: Sequence[tuple[Process, tuple[PageRange, ...]]]
    ) -> int:
        found = 0
        for _, got in self._read(sample):
            found += (digests.differing(got, self._buffer) or b"").count(1)
        return found

    def _content(
        self, sample: Sequence[tuple[Process, tuple[PageRange, ...]]]
    ) -> tuple[float, float]:
        packer, looked, zeros, packed = Packer(), 0, 0, 0
        for size, _ in self._read(sample):
            looked += size
            empty = zero_marks(self._buffer, size).count(1)
            zeros += empty
            # zeros compress to nothing: what is left is what the other pages take
            data = memoryview(self._buffer)[: size * PAGE_BYTES]
            packed += min(len(packer.pack(data)), (size - empty) * PAGE_BYTES)
        content = (looked - zeros) * PAGE_BYTES
        return zeros / max(looked, 1), packed / content if content else 1.0

    def _read(
        self, sample: Sequence[tuple[Process, tuple[PageRange, ...]]]
    ) -> Iterator[tuple[int, tuple[PageRange, ...]]]:
        """Each batch into the buffer: its pages, as far as they are still there."""
        for process, batch in sample:
            if self._stopped.is_set():
                return
            try:
                with MemoryReader(process) as reader:
                    got = reader.read(batch, self._buffer)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if got:
                yield total(got), got


def _spread(
    found: Sequence[tuple[Process, tuple[PageRange, ...]]],
) -> Iterator[tuple[Process, tuple[PageRange, ...]]]:
    """Batches from all over the memory."""
    each = max(1, sum(total(ranges) for _, ranges in found) // BATCH_PAGES // SAMPLE_BATCHES)
    number = 0
    for process, ranges in found:
        for batch in batches(ranges, pages=BATCH_PAGES):
            if number % each == 0:
                yield process, batch
            number += 1
