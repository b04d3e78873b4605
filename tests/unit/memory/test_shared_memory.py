"""Shared memory of a real process, sent ahead into a store, and images made whole of it."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.criu.state_size import LEAST_SHARED_PAGES as LEAST_PAGES
from transship.linux.pages import PAGE_BYTES
from transship.linux.processes import Process
from transship.memory import shared_images
from transship.memory.page_server.page_store import PageStore
from transship.memory.shared_images import SUFFIX, Image
from transship.memory.shared_memory import SharedMemory
from transship.memory.transfer.receiver import PageReceiver
from transship.memory.transfer.sender import PageSender

PAGES = 3 * LEAST_PAGES
HOLE = range(LEAST_PAGES, LEAST_PAGES + 40)
PROGRAM = f"""
import mmap, random, sys
SIZE = {PAGE_BYTES}
memory = mmap.mmap(-1, {PAGES} * SIZE)  # MAP_SHARED | MAP_ANONYMOUS
for page in range({PAGES}):
    if page not in range({HOLE.start}, {HOLE.stop}):
        memory[page * SIZE:(page + 1) * SIZE] = random.Random(page).randbytes(SIZE)
print("ready", flush=True)
for line in sys.stdin:
    page, seed = map(int, line.split())
    data = random.Random(seed).randbytes(SIZE) if seed else bytes(SIZE)
    memory[page * SIZE:(page + 1) * SIZE] = data
    print("done", flush=True)
"""


def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_BYTES)


@dataclass
class Program:
    child: subprocess.Popen[str]
    pages: dict[int, bytes]

    @property
    def process(self) -> Process:
        return Process(7, self.child.pid)

    def write(self, page: int, seed: int) -> None:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{page} {seed}\n")
        self.child.stdin.flush()
        assert self.child.stdout.readline() == "done\n"
        self.pages[page] = content(seed) if seed else bytes(PAGE_BYTES)

    def image(self, folder: Path, number: int = 3) -> Image:
        """As CRIU dumps it now."""
        path = folder / f"pages-{number}.img"
        runs: list[tuple[int, int]] = []
        for page in sorted(self.pages):
            if runs and sum(runs[-1]) == page:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((page, 1))
        path.write_bytes(b"".join(self.pages[page] for page in sorted(self.pages)))
        return Image(path, tuple(runs))


@pytest.fixture
def program() -> Iterator[Program]:
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield Program(child, {page: content(page) for page in range(PAGES) if page not in HOLE})
        child.kill()


@dataclass
class Link:
    sender: PageSender
    store: PageStore


@pytest.fixture
def link() -> Iterator[Link]:
    ours, theirs = socket.socketpair()
    store = PageStore(capacity=1 << 30)
    receiver = PageReceiver(theirs, store)
    thread = threading.Thread(target=receiver.run)
    thread.start()
    sender = PageSender(ours)
    yield Link(sender, store)
    sender.end()
    thread.join()
    for each in (sender, receiver, store):
        each.close()


def test_of_memory_that_was_sent_ahead_only_what_has_changed_is_left(
    program: Program, link: Link, tmp_path: Path
) -> None:
    shared = SharedMemory(link.sender)
    shared.copy([program.process])
    sent = link.sender.sent_pages
    assert sent == len(program.pages)
    program.write(5, 1000)
    program.write(6, 1001)
    shared.copy([program.process])
    assert link.sender.sent_pages == sent + 2
    program.write(9, 1002)  # after the last look, one that is new, and one of zeros
    program.write(HOLE.start, 1003)
    program.write(20, 0)
    image = program.image(tmp_path)
    whole = image.path.read_bytes()

    shared.reduce([image])
    assert not image.path.exists()
    assert image.path.with_name(image.path.name + SUFFIX).stat().st_size < 4 * PAGE_BYTES
    shared_images.compose(tmp_path, link.store)
    assert image.path.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [image.path.name]


def test_pages_of_zeros_are_put_in_their_places_also_at_the_end(
    program: Program, link: Link, tmp_path: Path
) -> None:
    for page in (0, 1, PAGES - 1):
        program.write(page, 0)
    shared = SharedMemory(link.sender)
    shared.copy([program.process])
    image = program.image(tmp_path)
    whole = image.path.read_bytes()
    shared.reduce([image])
    shared_images.compose(tmp_path, link.store)
    assert image.path.read_bytes() == whole


def test_an_image_of_something_else_and_a_small_one_go_as_they_are(
    program: Program, link: Link, tmp_path: Path
) -> None:
    shared = SharedMemory(link.sender)
    shared.copy([program.process])
    other, small = tmp_path / "pages-8.img", tmp_path / "pages-9.img"
    other.write_bytes(os.urandom(LEAST_PAGES * PAGE_BYTES))
    small.write_bytes(content(0))
    shared.reduce([Image(other, ((0, LEAST_PAGES),)), Image(small, ((0, 1),))])
    assert {path.name for path in tmp_path.iterdir()} == {other.name, small.name}


def test_two_images_may_be_of_the_same_pages(program: Program, link: Link, tmp_path: Path) -> None:
    """Two pieces with the same content are told apart by nothing."""
    shared = SharedMemory(link.sender)
    shared.copy([program.process])
    images = [program.image(tmp_path, number) for number in (3, 4)]
    whole = images[0].path.read_bytes()
    shared.reduce(images)
    shared_images.compose(tmp_path, link.store)
    assert [image.path.read_bytes() for image in images] == [whole, whole]


def test_a_page_that_the_target_lost_is_no_page_of_zeros(
    program: Program, link: Link, tmp_path: Path
) -> None:
    shared = SharedMemory(link.sender)
    shared.copy([program.process])
    shared.reduce([program.image(tmp_path)])
    empty = PageStore(capacity=1 << 30)
    with pytest.raises(TransshipError, match="missing"):
        shared_images.compose(tmp_path, empty)
    empty.close()


def test_a_process_that_has_ended_has_nothing(link: Link) -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
        SharedMemory(link.sender).copy([Process(1, child.pid)])
    assert link.sender.sent_pages == 0
