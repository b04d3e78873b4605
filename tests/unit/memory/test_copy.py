"""Against a real child process that writes where and when it is told."""

import os
import signal
import socket
import subprocess
import sys
import threading
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
from transship.memory.tracking.tracker import Untracked
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
        assert self._process.stdout.readline() == "ready\n"
        self.process = Process(inside=INSIDE, outside=self._process.pid)

    def tell(self, words: str) -> None:
        self._process.stdin.write(words + "\n")
        assert self._process.stdout.readline() == "done\n"

    def freeze(self) -> None:
        """Until then it may still be on its way back to reading its input."""
        os.kill(self.process.outside, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.outside, os.WSTOPPED)

    def end(self) -> None:
        with self._process:
            self._process.kill()


@pytest.fixture
def child():
    made = Child()
    yield made
    made.end()


def tracker_of(kind: str):
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
def tracker(request):
    made = tracker_of(request.param)
    yield made
    made.close()


class Target:
    """A store that a sender is joined to."""

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
def target():
    made = Target()
    yield made
    made.close()


@pytest.mark.parametrize("acts", [["write 3"], ["map 300"], ["replace 5", "map 9"], []])
def test_after_rounds_and_the_last_part_the_target_has_all_pages_as_they_are(
    child, tracker, target, acts
) -> None:
    copy = MemoryCopy(target.sender, tracker)
    copy.copy_round([child.process])
    for act in acts:
        child.tell(act)
    copy.copy_round([child.process])
    for act in acts:
        child.tell(act)
    child.freeze()
    ranges = private_pages(child.process)
    copy.copy_rest([child.process], ranges)
    assert target.holds(child.process, ranges)


@pytest.mark.parametrize("acts", [["write 3"], ["map 300"], ["replace 5", "map 9"], []])
def test_with_what_was_sent_beside_the_dump_the_target_has_all_pages_as_they_are(
    child, tracker, target, acts
) -> None:
    copy = MemoryCopy(target.sender, tracker)
    for _ in range(2):
        copy.copy_round([child.process])
        for act in acts:
            child.tell(act)
    child.freeze()
    copy.copy_during_dump([child.process])
    ranges = private_pages(child.process)
    copy.copy_rest([child.process], ranges)
    assert target.holds(child.process, ranges)


@pytest.mark.parametrize("kind", ["writes", "untracked"])
def test_what_was_sent_beside_the_dump_is_not_sent_again(child, target, kind) -> None:
    tracker = tracker_of(kind)
    copy = MemoryCopy(target.sender, tracker)
    if kind == "writes":
        copy.copy_round([child.process])
    child.tell("write 3")
    child.freeze()
    before = target.sender.sent_pages
    copy.copy_during_dump([child.process])
    ahead = target.sender.sent_pages - before
    result = copy.copy_rest([child.process], private_pages(child.process, data_of(child.process)))
    tracker.close()
    assert ahead > 0
    assert result.pages == 0


def test_what_is_promised_is_not_there_as_it_was_and_follows_as_it_is(
    child, tracker, target
) -> None:
    copy = MemoryCopy(target.sender, tracker)
    copy.copy_round([child.process])
    child.tell("write 3")
    child.tell("map 9")
    child.freeze()
    ranges = private_pages(child.process)
    target.store.expect(ranges)
    copy.prepare_postcopy([child.process], ranges)
    assert target.store.final
    missing = target.store.missing_ranges()
    assert missing
    there = PageSet()
    there.add(ranges)
    there.discard(missing)
    assert target.holds(child.process, joined(_within(there, ranges)))
    MemoryPush(lambda: [child.process]).push(target.sender)
    assert target.store.missing == 0
    assert target.holds(child.process, ranges)


def _within(pages: PageSet, ranges: tuple[PageRange, ...]) -> list[PageRange]:
    """Those of the ranges' pages that are in the set."""
    each = [
        PageRange(one.pid, one.address + number * PAGE_BYTES, 1)
        for one in ranges
        for number in range(one.pages)
    ]
    return [page for page in each if not pages.missing([page])]


def test_without_a_round_the_last_part_copies_everything(child, target) -> None:
    copy = MemoryCopy(target.sender, Untracked())
    copy.reserve([child.process])
    child.freeze()
    ranges = private_pages(child.process)
    result = copy.copy_rest([child.process], ranges)
    assert result.pages == sum(one.pages for one in ranges)
    assert target.holds(child.process, ranges)


@pytest.mark.parametrize("kind", ["writes", "digests"])
def test_a_later_round_copies_little_more_than_what_was_written(child, target, kind) -> None:
    tracker = tracker_of(kind)
    copy = MemoryCopy(target.sender, tracker)
    first = copy.copy_round([child.process])
    child.tell("write 3")
    second = copy.copy_round([child.process])
    copy.copy_rest([child.process], [])
    tracker.close()
    assert 0 < second.pages < first.pages / 4


def test_a_process_that_is_followed_sleeps_on_and_keeps_no_descriptor(child) -> None:
    tracker = tracker_of("writes")
    descriptors = Path(f"/proc/{child.process.outside}/fd")
    before = sorted(descriptors.iterdir())
    assert tracker.candidates(child.process)
    assert sorted(descriptors.iterdir()) == before
    child.tell("write 3")
    tracker.close()
    child.tell("write 4")


def test_pages_never_touched_are_not_made_to_look_used(child) -> None:
    tracker = tracker_of("writes")
    before = sum(one.pages for one in private_pages(child.process))
    tracker.candidates(child.process)
    assert sum(one.pages for one in private_pages(child.process)) <= before + 16
    tracker.close()


def test_a_process_that_has_ended_has_nothing_to_copy(child, tracker) -> None:
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
    found, content = selected(ranges, data, b"\0\1\1\0\1")
    assert found == (PageRange(1, PAGE_BYTES, 2), PageRange(1, 10 * PAGE_BYTES, 1))
    assert content == b"b" * PAGE_BYTES + b"c" * PAGE_BYTES + b"e" * PAGE_BYTES


def test_a_round_tells_what_has_changed_since(child, target) -> None:
    tracker = tracker_of("writes")
    copy = MemoryCopy(target.sender, tracker)
    copy.copy_round([child.process])
    quiet = copy.remaining_pages([child.process])
    for page in range(20, 40):
        child.tell(f"write {page}")
    changed = copy.remaining_pages([child.process])
    copy.copy_rest([child.process], [])
    tracker.close()
    assert quiet is not None
    assert changed >= quiet + 20 - 4  # a few of them may have been written just before


@pytest.mark.parametrize("kind", ["digests", "untracked"])
def test_without_the_kernels_help_nobody_knows_what_has_changed(child, target, kind) -> None:
    tracker = tracker_of(kind)
    copy = MemoryCopy(target.sender, tracker)
    assert copy.copy_round([child.process]).remaining_pages is None
    copy.copy_rest([child.process], [])


def test_a_limited_stream_still_learns_what_the_link_can_do(child, target) -> None:
    """From a burst: otherwise the blackout would be predicted at the limit's rate."""
    child.tell("map 512")
    target.sender = PageSender(target.sender._channel, bandwidth=BandwidthLimit(4e6))
    copy = MemoryCopy(target.sender, Untracked())
    done = copy.copy_round([child.process])
    copy.copy_rest([child.process], [])
    assert done.rate > 2 * 4e6


def test_a_meter_is_not_misled_by_a_few_pages() -> None:
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
