"""Measures the memory of a running container: its size, and how fast it changes.

Nothing is sent. If the kernel records writes, they are counted. Otherwise a sample of the pages is
read twice and compared. Blocking: for a thread of its own.
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
"""When changes are counted: only several counts show which pages are written repeatedly."""
SAMPLE_BATCHES = 128
"""Batches of 1 MiB, spread over the memory, of which the content is read."""

Sample = Sequence[tuple[Process, tuple[PageRange, ...]]]
"""Page ranges, each with its process."""


@dataclass(frozen=True)
class ProbeResult:
    """What was measured.

    zero_share: of all pages. compressed_share: compressed size, as a share of the pages that are
    not zeros. changes: seconds, and how many pages had changed by then.
    """

    pages: int
    zero_share: float
    compressed_share: float
    changes: tuple[tuple[float, int], ...]


class MemoryProbe:
    """Probes one container. `stop` ends the probe soon, and may be called by any thread."""

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
        memory = [(process, self._tracker.candidates(process)) for process in self._processes()]
        began = time.monotonic()
        pages = sum(total(ranges) for _, ranges in memory)
        sample = list(_spread(memory))
        zero_share, compressed_share = self._content_shares(sample)
        changes = self._recorded_changes(began) or self._compared_changes(sample, pages)
        return ProbeResult(pages, zero_share, compressed_share, changes)

    def _recorded_changes(self, began: float) -> tuple[tuple[float, int], ...]:
        """Count changes by the kernel's record; empty if it has none of some process."""
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

    def _compared_changes(self, sample: Sample, pages: int) -> tuple[tuple[float, int], ...]:
        """Estimate changes by reading the sample twice."""
        digests = DigestTracker()
        sample_pages = sum(total(ranges) for _, ranges in sample)
        self._count_differing(digests, sample)
        began = time.monotonic()
        self._stopped.wait(COUNT_AT_SECONDS[-1])
        changed = self._count_differing(digests, sample)
        return ((time.monotonic() - began, round(pages * changed / max(sample_pages, 1))),)

    def _count_differing(self, digests: DigestTracker, sample: Sample) -> int:
        return sum(
            (digests.differing(ranges, self._buffer) or b"").count(1)
            for _, ranges in self._read(sample)
        )

    def _content_shares(self, sample: Sample) -> tuple[float, float]:
        """Return the shares of zero pages and of compressed content."""
        packer, pages, zeros, compressed = Packer(), 0, 0, 0
        for batch_pages, _ in self._read(sample):
            batch_zeros = zero_marks(self._buffer, batch_pages).count(1)
            data = memoryview(self._buffer)[: batch_pages * PAGE_BYTES]
            # zeros compress to nothing: the result is the size of the other pages
            size = min(len(packer.pack(data)), (batch_pages - batch_zeros) * PAGE_BYTES)
            pages, zeros, compressed = pages + batch_pages, zeros + batch_zeros, compressed + size
        content = (pages - zeros) * PAGE_BYTES
        return zeros / max(pages, 1), compressed / content if content else 1.0

    def _read(self, sample: Sample) -> Iterator[tuple[int, tuple[PageRange, ...]]]:
        """Read each batch into the buffer. Yields the number of its pages, and its ranges.

        Pages that are not mapped any more are left out.
        """
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


def _spread(memory: Sample) -> Iterator[tuple[Process, tuple[PageRange, ...]]]:
    """Yield batches at regular distances in the memory."""
    step = max(1, sum(total(ranges) for _, ranges in memory) // BATCH_PAGES // SAMPLE_BATCHES)
    number = 0
    for process, ranges in memory:
        for batch in batches(ranges, pages=BATCH_PAGES):
            if number % step == 0:
                yield process, batch
            number += 1
