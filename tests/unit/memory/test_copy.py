"""Copies a real child process, which writes pages on command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.stored import content
from transship.linux.pages import CHUNK_BYTES, PAGE_BYTES, PageRange, PageSet, batches, joined
from transship.linux.process_memory import BATCH_PAGES, MemoryReader, data_of, private_pages
from transship.linux.processes import Process
from transship.memory.copy import LinkMeter, MemoryCopy, selected
from transship.memory.page_server.page_store import PageStore
from transship.memory.postcopy.push import MemoryPush
from transship.memory.tracking import write_faults
from transship.memory.tracking.digest_tracker import DigestTracker
from transship.memory.tracking.tracker import Tracker, Untracked
from transship.memory.tracking.write_tracker import WriteTracker
from transship.memory.transfer.receiver import PageReceiver
from transship.memory.transfer.sender import PageSender
from transship.streams.bandwidth_limit import BandwidthLimit

CHILD = """
import mmap, sys
memory = mmap.mmap(-1, 64 * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(64):
    memory[page * mmap.PAGESIZE] = 1 + page
more = []
print("ready", flush=True)
for line in sys.stdin:
    word, number = line.split()
    if word == "write":
        memory[int(number) * mmap.PAGESIZE + 9] ^= 0x55
    if word == "map":
        size = int(number) * mmap.PAGESIZE
        more.append(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        more[-1].write(b"m" * size)
    if word == "replace":
        memory.madvise(mmap.MADV_DONTNEED)
        memory[int(number) * mmap.PAGESIZE] = 99
    print("done", flush=True)
"""

INSIDE = 7


class Child:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        assert self._output.readline() == "ready\n"
        self.process = Process(inside=INSIDE, outside=self._process.pid)

    def send(self, command: str) -> None:
        self._input.write(command + "\n")
        assert self._output.readline() == "done\n"

    def freeze(self) -> None:
        """Wait until it is stopped: it may not have returned to reading its input yet."""
        os.kill(self.process.outside, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.outside, os.WSTOPPED)

    def end(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.end()


def tracker_of(kind: str) -> Tracker:
    match kind:
        case "writes":
            if not write_faults.supported():
                pytest.skip("this kernel keeps no record of writes")
            return WriteTracker()
        case "digests":
            return DigestTracker()
        case _:
            return Untracked()


@pytest.fixture(params=["writes", "digests", "untracked"])
def tracker(request: pytest.FixtureRequest) -> Iterator[Tracker]:
    tracker = tracker_of(request.param)
    yield tracker
    tracker.close()


class Target:
    """A page store and a sender that are connected."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.store = PageStore(capacity=1024 * CHUNK_BYTES)
        self.sender = PageSender(ours)
        self.receiver = PageReceiver(theirs, self.store)
        self.thread = threading.Thread(target=self.receiver.run)
        self.thread.start()

    def holds(self, process: Process, ranges: tuple[PageRange, ...]) -> bool:
        buffer = bytearray(BATCH_PAGES * PAGE_BYTES)
        with MemoryReader(process) as reader:
            for batch in batches(ranges, pages=BATCH_PAGES):
                assert reader.read(batch, buffer) == batch
                stored = b"".join(content(self.store, one) for one in batch)
                if stored != buffer[: len(stored)]:
                    return False
        return True

    def close(self) -> None:
        self.thread.join()
        self.sender.close()
        self.receiver.close()
        self.store.close()


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


@pytest.mark.parametrize("commands", [["write 3"], ["map 300"], ["replace 5", "map 9"], []])
def test_after_rounds_and_the_final_copy_the_target_has_all_pages(
    child: Child, tracker: Tracker, target: Target, commands: list[str]
) -> None:
    copy = MemoryCopy(target.sender, tracker)
    copy.copy_round([child.process])
    for command in commands:
        child.send(command)
    copy.copy_round([child.process])
    for command in commands:
        child.send(command)
    child.freeze()
    ranges = private_pages(child.process)
    copy.copy_rest([child.process], ranges)
    assert target.holds(child.process, ranges)


@pytest.mark.parametrize("commands", [["write 3"], ["map 300"], ["replace 5", "map 9"], []])
def test_with_a_copy_during_the_dump_the_target_has_all_pages(
    child: Child, tracker: Tracker, target: Target, commands: list[str]
) -> None:
    copy = MemoryCopy(target.sender, tracker)
    for _ in range(2):
        copy.copy_round([child.process])
        for command in commands:
            child.send(command)
    child.freeze()
    copy.copy_during_dump([child.process])
    ranges = private_pages(child.process)
    copy.copy_rest([child.process], ranges)
    assert target.holds(child.process, ranges)


@pytest.mark.parametrize("kind", ["writes", "untracked"])
def test_pages_copied_during_the_dump_are_not_sent_again(
    child: Child, target: Target, kind: str
) -> None:
    tracker = tracker_of(kind)
    copy = MemoryCopy(target.sender, tracker)
    if kind == "writes":
        copy.copy_round([child.process])
    child.send("write 3")
    child.freeze()
    before = target.sender.sent_pages
    copy.copy_during_dump([child.process])
    sent = target.sender.sent_pages - before
    result = copy.copy_rest([child.process], private_pages(child.process, data_of(child.process)))
    tracker.close()
    assert sent > 0
    assert result.pages == 0


def test_before_a_post_copy_stale_pages_are_invalidated_and_pushed_later(
    child: Child, tracker: Tracker, target: Target
) -> None:
    copy = MemoryCopy(target.sender, tracker)
    copy.copy_round([child.process])
    child.send("write 3")
    child.send("map 9")
    child.freeze()
    ranges = private_pages(child.process)
    target.store.expect(ranges)
    copy.prepare_postcopy([child.process], ranges)
    assert target.store.final
    missing = target.store.missing_ranges()
    assert missing
    stored = PageSet()
    stored.add(ranges)
    stored.discard(missing)
    assert target.holds(child.process, joined(_within(stored, ranges)))
    MemoryPush(lambda: [child.process]).push(target.sender)
    assert target.store.missing == 0
    assert target.holds(child.process, ranges)


def _within(pages: PageSet, ranges: tuple[PageRange, ...]) -> list[PageRange]:
    """Return the pages of the ranges that are in the set, one by one."""
    all_pages = [
        PageRange(one.pid, one.address + number * PAGE_BYTES, 1)
        for one in ranges
        for number in range(one.pages)
    ]
    return [page for page in all_pages if not pages.missing([page])]


def test_without_a_round_the_final_copy_has_all_pages(child: Child, target: Target) -> None:
    copy = MemoryCopy(target.sender, Untracked())
    copy.reserve([child.process])
    child.freeze()
    ranges = private_pages(child.process)
    result = copy.copy_rest([child.process], ranges)
    assert result.pages == sum(one.pages for one in ranges)
    assert target.holds(child.process, ranges)


@pytest.mark.parametrize("kind", ["writes", "digests"])
def test_a_later_round_copies_little_more_than_the_written_pages(
    child: Child, target: Target, kind: str
) -> None:
    tracker = tracker_of(kind)
    copy = MemoryCopy(target.sender, tracker)
    first = copy.copy_round([child.process])
    child.send("write 3")
    second = copy.copy_round([child.process])
    copy.copy_rest([child.process], [])
    tracker.close()
    assert 0 < second.pages < first.pages / 4


def test_a_tracked_process_sleeps_on_and_keeps_no_descriptor(child: Child) -> None:
    tracker = tracker_of("writes")
    descriptors = Path(f"/proc/{child.process.outside}/fd")
    before = sorted(descriptors.iterdir())
    assert tracker.candidates(child.process)
    assert sorted(descriptors.iterdir()) == before
    child.send("write 3")
    tracker.close()
    child.send("write 4")


def test_tracking_does_not_make_untouched_pages_look_used(child: Child) -> None:
    tracker = tracker_of("writes")
    before = sum(one.pages for one in private_pages(child.process))
    tracker.candidates(child.process)
    assert sum(one.pages for one in private_pages(child.process)) <= before + 16
    tracker.close()


def test_a_process_that_has_ended_has_nothing_to_copy(child: Child, tracker: Tracker) -> None:
    child.end()
    assert tracker.candidates(child.process) == ()


def test_digests_are_forgotten_with_their_process() -> None:
    tracker = DigestTracker()
    pages, data = [PageRange(INSIDE, 0, 2)], bytearray(2 * PAGE_BYTES)
    assert tracker.differing(pages, data) == b"\1\1"
    data[PAGE_BYTES] = 1
    assert tracker.differing(pages, data) == b"\0\1"
    tracker.forget(INSIDE)
    assert tracker.differing(pages, data) == b"\1\1"


def test_selected_pages_keep_their_addresses_and_content() -> None:
    data = bytearray(b"".join(bytes([letter]) * PAGE_BYTES for letter in b"abcde"))
    ranges = (PageRange(1, 0, 3), PageRange(1, 9 * PAGE_BYTES, 2))
    ranges_selected, content = selected(ranges, data, b"\0\1\1\0\1")
    assert ranges_selected == (PageRange(1, PAGE_BYTES, 2), PageRange(1, 10 * PAGE_BYTES, 1))
    assert content == b"b" * PAGE_BYTES + b"c" * PAGE_BYTES + b"e" * PAGE_BYTES


def test_pages_changed_since_a_round_are_counted(child: Child, target: Target) -> None:
    tracker = tracker_of("writes")
    copy = MemoryCopy(target.sender, tracker)
    copy.copy_round([child.process])
    quiet = copy.remaining_pages([child.process])
    for page in range(20, 40):
        child.send(f"write {page}")
    changed = copy.remaining_pages([child.process])
    copy.copy_rest([child.process], [])
    tracker.close()
    assert quiet is not None
    assert changed is not None
    assert changed >= quiet + 20 - 4  # a few of them may have been written just before


@pytest.mark.parametrize("kind", ["digests", "untracked"])
def test_without_a_record_of_writes_changed_pages_are_not_counted(
    child: Child, target: Target, kind: str
) -> None:
    tracker = tracker_of(kind)
    copy = MemoryCopy(target.sender, tracker)
    assert copy.copy_round([child.process]).remaining_pages is None
    copy.copy_rest([child.process], [])


def test_a_limited_stream_still_measures_the_link(child: Child, target: Target) -> None:
    """By a burst: otherwise the blackout would be predicted at the limit's rate."""
    child.send("map 512")
    target.sender = PageSender(target.sender._channel, bandwidth=BandwidthLimit(4e6))
    copy = MemoryCopy(target.sender, Untracked())
    done = copy.copy_round([child.process])
    copy.copy_rest([child.process], [])
    assert done.rate > 2 * 4e6


def test_a_few_pages_do_not_change_the_measured_rate() -> None:
    meter = LinkMeter()
    meter.begin_round()
    meter.count(100 << 20)
    with meter.timing():
        pass
    good = meter.rate
    meter.begin_round()
    meter.count(PAGE_BYTES)
    with meter.timing():
        pass
    assert meter.rate == good
