"""Copies the memory of a container's processes over a page stream, in rounds, then for good.

Rounds go while the container runs: the first copies everything, the others what has changed. The
last part goes inside the freeze: of the pages that CRIU's images leave to be restored lazily, each
one that was never sent or has changed since. StopAndCopy is this without a round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from transship.common.errors import TransshipError
from transship.transfer.changed_pages import Tracker
from transship.transfer.page_ranges import (
    PAGE_BYTES,
    PageRange,
    PageSet,
    Process,
    batches,
    total,
)
from transship.transfer.page_sender import PageSender
from transship.transfer.process_memory import BATCH_PAGES, MemoryReader, private_pages

MAX_ROUNDS = 8
"""A container that has not come to rest by then will not."""
MIN_SHRINK = 0.9
"""A round of more than this share of the one before is as good as it gets."""
OVERHEAD_SECONDS = 0.002
"""Of the last part besides the pages: the scan, the flush."""


@dataclass(frozen=True)
class RoundResult:
    """What one round, or the last part, took; `bytes` are those on the wire."""

    pages: int
    bytes: int
    seconds: float


class MemoryCopy:
    """One container's copy. Blocking: all calls from one thread, besides the sender's abort."""

    def __init__(self, sender: PageSender, tracker: Tracker) -> None:
        self._sender = sender
        self._tracker = tracker
        self._sent = PageSet()
        self._buffer = bytearray(BATCH_PAGES * PAGE_BYTES)
        self.rounds: list[RoundResult] = []

    def reserve(self, processes: Sequence[Process]) -> None:
        """Have the target get memory for all of it: before the freeze, when there is no round."""
        for process in processes:
            self._sender.reserve(private_pages(process))
        self._sender.flush()

    def round(self, processes: Sequence[Process]) -> RoundResult:
        """Copy what has changed of the running processes; all of it in the first round."""
        start = _Start.of(self._sender)
        for process in processes:
            changed = self._tracker.candidates(process)
            self._sent.discard(changed)
            if not self.rounds:
                self._sender.reserve(changed)
                # while it makes room it reads nothing: a window shut for seconds looks like a
                # dead peer to TCP_USER_TIMEOUT
                self._sender.flush()
            self._copy_running(process, changed)
        self._sender.flush()
        self.rounds.append(start.result(self._sender))
        return self.rounds[-1]

    def finish(self, processes: Sequence[Process], ranges: Sequence[PageRange]) -> RoundResult:
        """Inside the freeze: have every page of `ranges` at the target as it is now."""
        start = _Start.of(self._sender)
        by_pid = {process.inside: process for process in processes}
        for pid in sorted({one.pid for one in ranges}):
            if pid not in by_pid:
                raise TransshipError(f"copying memory: process {pid} of the dump is not known")
            wanted = [one for one in ranges if one.pid == pid]
            if self.rounds:
                self._sent.discard(self._tracker.last_candidates(by_pid[pid], wanted))
            self._copy_frozen(by_pid[pid], self._sent.missing(wanted))
        self._sender.end()
        return start.result(self._sender)

    def _copy_running(self, process: Process, ranges: Sequence[PageRange]) -> None:
        """What has vanished meanwhile is left out: it is new if it comes back."""
        try:
            reader = MemoryReader(process)
        except (FileNotFoundError, ProcessLookupError):
            return
        with reader:
            for batch in batches(ranges, pages=BATCH_PAGES):
                self._send(reader.read(batch, self._buffer))

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
            self._sender.send(got, self._buffer)
        elif 1 in marks:
            self._sender.send(*selected(got, self._buffer, marks))
        self._sent.add(got)


@dataclass(frozen=True)
class _Start:
    """Where the counters and the clock stood."""

    pages: int
    bytes: int
    at: float

    @classmethod
    def of(cls, sender: PageSender) -> _Start:
        return cls(sender.sent_pages, sender.sent_bytes, time.monotonic())

    def result(self, sender: PageSender) -> RoundResult:
        return RoundResult(
            pages=sender.sent_pages - self.pages,
            bytes=sender.sent_bytes - self.bytes,
            seconds=time.monotonic() - self.at,
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


def enough(rounds: Sequence[RoundResult], *, downtime_seconds: float) -> bool:
    """Whether to freeze now rather than copy another round.

    What will be left is taken to be what the last round had to copy, at the rate of all rounds.
    """
    if not rounds:
        return False
    if len(rounds) >= MAX_ROUNDS:
        return True
    if len(rounds) >= 2 and rounds[-1].pages >= MIN_SHRINK * rounds[-2].pages:
        return True
    return expected_seconds(rounds) <= downtime_seconds


def expected_seconds(rounds: Sequence[RoundResult]) -> float:
    """How long the last part will take, by the rounds so far."""
    seconds = sum(one.seconds for one in rounds)
    size = sum(one.bytes for one in rounds)
    rate = size / seconds if seconds > 0 else 0.0
    return OVERHEAD_SECONDS + (rounds[-1].bytes / rate if rate > 0 else 0.0)
