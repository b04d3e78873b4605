"""Copies the private memory of a container's processes over a page stream.

While the container runs, memory is copied in rounds: the first round copies all pages, the others
those that have changed. The final copy is inside the freeze. It sends those of the pages that
CRIU's images leave out which were never sent or have changed since. StopAndCopy has no rounds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from transship.common.errors import TransshipError
from transship.linux.pages import PAGE_BYTES, PageRange, PageSet, batches, total
from transship.linux.process_memory import BATCH_PAGES, MemoryReader, private_pages
from transship.linux.processes import Process
from transship.memory.copy_progress import CopyRound
from transship.memory.tracking.tracker import Tracker
from transship.memory.transfer.sender import PageSender

RESERVE_PAGES = 4096
"""The target allocates memory for so many pages at a time: 16 MiB. That takes 20 ms, in which it
reads nothing; the buffers of a connection cover that. For all pages at once it took seconds."""
BURST_PAGES = 64
"""A batch of at least so many pages is large enough to measure the link."""


class MemoryCopy:
    """The copy of one container's memory. Blocking. All calls must come from one thread."""

    def __init__(self, sender: PageSender, tracker: Tracker) -> None:
        self._sender = sender
        self._tracker = tracker
        self._sent = PageSet()
        self._sent_during_dump = PageSet()  # sent inside the freeze
        self._buffer = bytearray(BATCH_PAGES * PAGE_BYTES)
        self._link_meter = LinkMeter()
        self.rounds: list[CopyRound] = []

    def reserve(self, processes: Sequence[Process]) -> int:
        """Have the target allocate memory for all pages, before a freeze that no round precedes.

        Returns the number of pages.
        """
        pages = 0
        for process in processes:
            ranges = private_pages(process)
            self._sender.reserve(ranges)
            pages += total(ranges)
        self._sender.flush()
        return pages

    def copy_round(self, processes: Sequence[Process]) -> CopyRound:
        """Copy the changed pages of the running processes; all pages in the first round."""
        start = _RoundStart.of(self._sender)
        self._link_meter.begin_round()
        for process in processes:
            changed = self._tracker.candidates(process)
            self._sent.discard(changed)
            for part in batches(changed, pages=RESERVE_PAGES):
                if not self.rounds:
                    self._sender.reserve(part)
                self._copy_what_can_be_read(process, part)
        with self._link_meter.timing():
            self._sender.flush()
        done = start.result(self._sender, rate=self._link_meter.rate)
        self.rounds.append(replace(done, remaining_pages=self.remaining_pages(processes)))
        return self.rounds[-1]

    def remaining_pages(self, processes: Sequence[Process]) -> int | None:
        """Count the pages that have changed since. None where only reading them would tell."""
        counts = [self._tracker.count_changed(process) for process in processes]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def copy_during_dump(self, processes: Sequence[Process]) -> None:
        """Send changed pages that are safe to read while CRIU dumps the frozen processes."""
        if not self.rounds:
            self._sender.final()
        for process in processes:
            changed = self._tracker.candidates_during_dump(process)
            self._sent.discard(changed)
            self._sent_during_dump.add(self._copy_what_can_be_read(process, changed))

    def copy_rest(self, processes: Sequence[Process], ranges: Sequence[PageRange]) -> CopyRound:
        """Inside the freeze, send those pages of `ranges` that the target does not have."""
        start = _RoundStart.of(self._sender)
        if not self.rounds and not self._sent_during_dump:
            self._sender.final()
        by_pid = {process.inside: process for process in processes}
        for pid in sorted({one.pid for one in ranges}):
            if pid not in by_pid:
                raise TransshipError(f"copying memory: process {pid} of the dump is unknown")
            wanted = [one for one in ranges if one.pid == pid]
            if self.rounds:
                changed = self._tracker.final_candidates(by_pid[pid], wanted)
                self._sent.discard(self._sent_during_dump.missing(changed))
            self._copy_frozen(by_pid[pid], self._sent.missing(wanted))
        if self.rounds:  # not before: the target had stale pages until now
            self._sender.final()
        self._sender.end()
        return start.result(self._sender, rate=self._link_meter.rate)

    def prepare_postcopy(self, processes: Sequence[Process], ranges: Sequence[PageRange]) -> None:
        """Inside the freeze, invalidate the changed pages at the target, instead of `copy_rest`."""
        if self.rounds:
            for process in processes:
                wanted = [one for one in ranges if one.pid == process.inside]
                self._sender.invalidate(self._tracker.final_candidates(process, wanted))
        self._sender.final()
        self._sender.flush()

    def _copy_what_can_be_read(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> list[PageRange]:
        """Copy pages of a running process, except those that it has unmapped meanwhile.

        Returns the pages that were copied.
        """
        copied: list[PageRange] = []
        try:
            reader = MemoryReader(process)
        except (FileNotFoundError, ProcessLookupError):
            return copied
        with reader:
            for batch in batches(ranges, pages=BATCH_PAGES):
                got = reader.read(batch, self._buffer)
                self._send(got)
                copied += got
        return copied

    def _copy_frozen(self, process: Process, ranges: Sequence[PageRange]) -> None:
        with MemoryReader(process) as reader:
            for batch in batches(ranges, pages=BATCH_PAGES):
                got = reader.read(batch, self._buffer)
                if total(got) != total(batch):
                    raise TransshipError(f"copying memory: cannot read {batch} of {process}")
                self._send(got)

    def _send(self, got: tuple[PageRange, ...]) -> None:
        if not got:
            return
        marks = self._tracker.differing(got, self._buffer)
        if marks is None or 0 not in marks:
            self._send_metered(got, self._buffer)
        elif 1 in marks:
            self._send_metered(*selected(got, self._buffer, marks))
        self._sent.add(got)

    def _send_metered(self, ranges: Sequence[PageRange], data: bytearray) -> None:
        sender = self._sender
        before = sender.sent_bytes
        if not sender.is_limited:
            with self._link_meter.timing():
                sender.send(ranges, data)
            self._link_meter.count(sender.sent_bytes - before)
        elif total(ranges) >= BURST_PAGES and not self._link_meter.has_burst:
            seconds = sender.burst(ranges, data)
            self._link_meter.note_burst(sender.sent_bytes - before, seconds)
        else:
            sender.send(ranges, data)


class LinkMeter:
    """Measures what the link carries without a bandwidth limit.

    rate: bytes per second, 0 if unknown. has_burst: this round has measured a burst.
    """

    def __init__(self) -> None:
        self._bytes, self._seconds = 0, 0.0
        self.rate = 0.0
        self.has_burst = False

    def begin_round(self) -> None:
        self.has_burst = False
        self._bytes, self._seconds = 0, 0.0

    @contextmanager
    def timing(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds += time.monotonic() - began
        # the time of a few pages is the round trip's
        if self._bytes >= BURST_PAGES * PAGE_BYTES or not self.rate:
            self.rate = self._bytes / max(self._seconds, 1e-6)

    def count(self, size: int) -> None:
        self._bytes += size

    def note_burst(self, size: int, seconds: float) -> None:
        """Measure by a burst: with a bandwidth limit there is no other way."""
        self.has_burst = True
        if size >= BURST_PAGES * PAGE_BYTES // 2:
            self.rate = size / seconds


@dataclass(frozen=True)
class _RoundStart:
    """The counters and the clock at the start of a round."""

    pages: int
    content: int
    bytes: int
    at: float

    @classmethod
    def of(cls, sender: PageSender) -> _RoundStart:
        return cls(
            sender.sent_pages,
            sender.content_bytes,
            sender.sent_bytes,
            time.monotonic(),
        )

    def result(self, sender: PageSender, *, rate: float) -> CopyRound:
        return CopyRound(
            pages=sender.sent_pages - self.pages,
            content_bytes=sender.content_bytes - self.content,
            bytes=sender.sent_bytes - self.bytes,
            seconds=time.monotonic() - self.at,
            rate=rate,
        )


def selected(
    ranges: Sequence[PageRange], data: bytearray, marks: bytes
) -> tuple[tuple[PageRange, ...], bytearray]:
    """Return the pages that are marked, with their content."""
    selection: list[PageRange] = []
    content = bytearray()
    page = 0
    for one in ranges:
        end = page + one.pages
        at = marks.find(1, page, end)
        while at >= 0:
            stop = marks.find(0, at, end)
            stop = end if stop < 0 else stop
            selection.append(PageRange(one.pid, one.address + (at - page) * PAGE_BYTES, stop - at))
            content += memoryview(data)[at * PAGE_BYTES : stop * PAGE_BYTES]
            at = marks.find(1, stop, end)
        page = end
    return tuple(selection), content
