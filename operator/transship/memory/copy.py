"""Copies the memory of a container's processes over a page stream, in rounds, then for good.

Rounds go while the container runs: the first copies everything, the others what has changed. The
last part goes inside the freeze: of the pages that CRIU's images leave to be restored lazily, each
one that was never sent or has changed since. StopAndCopy is this without a round.
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

ROOM_PAGES = 4096
"""Room is made for so many at a time at the target: 16 MiB, 20 ms in which it reads nothing, and
for which the buffers of a connection last. For all at once it took seconds, the link idle."""
PROBE_PAGES = 64
"""A batch of at least so many pages with content tells what the link can do."""


class MemoryCopy:
    """One container's copy. Blocking: all calls from one thread, besides the sender's abort."""

    def __init__(self, sender: PageSender, tracker: Tracker) -> None:
        self._sender = sender
        self._tracker = tracker
        self._sent = PageSet()
        self._sent_during_dump = PageSet()  # sent inside the freeze
        self._buffer = bytearray(BATCH_PAGES * PAGE_BYTES)
        self._link_meter = LinkMeter()
        self.rounds: list[CopyRound] = []

    def reserve(self, processes: Sequence[Process]) -> int:
        """Have the target get memory for all of it: before the freeze, when there is no round.

        Returns how many pages that is.
        """
        pages = 0
        for process in processes:
            found = private_pages(process)
            self._sender.reserve(found)
            pages += total(found)
        self._sender.flush()
        return pages

    def copy_round(self, processes: Sequence[Process]) -> CopyRound:
        """Copy what has changed of the running processes; all of it in the first round."""
        start = _RoundStart.of(self._sender)
        self._link_meter.begin_round()
        for process in processes:
            changed = self._tracker.candidates(process)
            self._sent.discard(changed)
            for part in batches(changed, pages=ROOM_PAGES):
                if not self.rounds:
                    self._sender.reserve(part)
                self._copy_what_can_be_read(process, part)
        with self._link_meter.timing():
            self._sender.flush()
        done = start.result(self._sender, rate=self._link_meter.rate)
        self.rounds.append(replace(done, remaining_pages=self.remaining_pages(processes)))
        return self.rounds[-1]

    def remaining_pages(self, processes: Sequence[Process]) -> int | None:
        """How many pages have changed since; None where only reading them would tell."""
        counts = [self._tracker.count_changed(process) for process in processes]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def copy_during_dump(self, processes: Sequence[Process]) -> None:
        """Inside the freeze, beside the dump: send what that leaves alone."""
        if not self.rounds:
            self._sender.final()
        for process in processes:
            changed = self._tracker.candidates_during_dump(process)
            self._sent.discard(changed)
            self._sent_during_dump.add(self._copy_what_can_be_read(process, changed))

    def copy_rest(self, processes: Sequence[Process], ranges: Sequence[PageRange]) -> CopyRound:
        """Inside the freeze: have every page of `ranges` at the target as it is now."""
        start = _RoundStart.of(self._sender)
        if not self.rounds and not self._sent_during_dump:
            self._sender.final()
        by_pid = {process.inside: process for process in processes}
        for pid in sorted({one.pid for one in ranges}):
            if pid not in by_pid:
                raise TransshipError(f"copying memory: process {pid} of the dump is not known")
            wanted = [one for one in ranges if one.pid == pid]
            if self.rounds:
                changed = self._tracker.final_candidates(by_pid[pid], wanted)
                self._sent.discard(self._sent_during_dump.missing(changed))
            self._copy_frozen(by_pid[pid], self._sent.missing(wanted))
        if self.rounds:  # only now is nothing there any more that has changed since
            self._sender.final()
        self._sender.end()
        return start.result(self._sender, rate=self._link_meter.rate)

    def prepare_postcopy(self, processes: Sequence[Process], ranges: Sequence[PageRange]) -> None:
        """Inside the freeze, instead of finish: what has changed or was not sent will follow."""
        if self.rounds:
            for process in processes:
                wanted = [one for one in ranges if one.pid == process.inside]
                self._sender.invalidate(self._tracker.final_candidates(process, wanted))
        self._sender.final()
        self._sender.flush()

    def _copy_what_can_be_read(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> list[PageRange]:
        """What has vanished meanwhile is left out: it is new if it comes back."""
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
        elif total(ranges) >= PROBE_PAGES and not self._link_meter.has_probed:
            seconds = sender.burst(ranges, data)
            self._link_meter.probe(sender.sent_bytes - before, seconds)
        else:
            sender.send(ranges, data)


class LinkMeter:
    """How fast the stream is when nothing holds it back on purpose: bytes per second."""

    def __init__(self) -> None:
        self._bytes, self._seconds = 0, 0.0
        self.rate = 0.0
        self.has_probed = False

    def begin_round(self) -> None:
        self.has_probed = False
        self._bytes, self._seconds = 0, 0.0

    @contextmanager
    def timing(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds += time.monotonic() - began
        # a few pages tell of the round trip alone
        if self._bytes >= PROBE_PAGES * PAGE_BYTES or not self.rate:
            self.rate = self._bytes / max(self._seconds, 1e-6)

    def count(self, size: int) -> None:
        self._bytes += size

    def probe(self, size: int, seconds: float) -> None:
        """A burst under a limit: all that can be known then."""
        self.has_probed = True
        if size >= PROBE_PAGES * PAGE_BYTES // 2:
            self.rate = size / seconds


@dataclass(frozen=True)
class _RoundStart:
    """Where the counters and the clock stood."""

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
    """Those pages that are marked, with their content."""
    found: list[PageRange] = []
    content = bytearray()
    page = 0
    for one in ranges:
        end = page + one.pages
        at = marks.find(1, page, end)
        while at >= 0:
            stop = marks.find(0, at, end)
            stop = end if stop < 0 else stop
            found.append(PageRange(one.pid, one.address + (at - page) * PAGE_BYTES, stop - at))
            content += memoryview(data)[at * PAGE_BYTES : stop * PAGE_BYTES]
            at = marks.find(1, stop, end)
        page = end
    return tuple(found), content
