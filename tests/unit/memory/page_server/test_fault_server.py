"""Real processes and userfaultfds. Pages are numbered, so that each shows where it belongs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.lazy_process import PAGE, PID, LazyProcess
from transship.linux.pages import CHUNK_BYTES, PageRange, total
from transship.memory.page_server.address_spaces import AddressSpaces
from transship.memory.page_server.event_log import EventLog
from transship.memory.page_server.fault_server import FaultServer
from transship.memory.page_server.lazy_pages_socket import SOCKET_NAME
from transship.memory.page_server.page_index import Milestone
from transship.memory.page_server.page_store import PageStore

PAGES = 1200  # two whole chunks and more
OFFSET = 1000


class Node:
    """A page store, a fault server, and one process that misses the pages `lazy`."""

    def __init__(self, folder: Path, lazy: range = range(PAGES)) -> None:
        self.store = PageStore(capacity=64 * CHUNK_BYTES)
        self.lazy = lazy
        self.page_requests: list[PageRange] = []
        self.requested = threading.Event()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / SOCKET_NAME))
        self.listener.listen()
        self.log = os.memfd_create("events")
        self.address_spaces = AddressSpaces(EventLog(self.log), self._lazy_pages)
        self.server = FaultServer(
            self.store, self.address_spaces, listener=self.listener, page_request=self._page_request
        )
        self.process = LazyProcess(folder / SOCKET_NAME, pages=PAGES)
        self.store.expect([self.pages(lazy.start, lazy.stop)])
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self._is_closed = False

    def _lazy_pages(self, pid: int) -> list[PageRange]:
        return [self.pages(self.lazy.start, self.lazy.stop)] if pid == PID else []

    def _page_request(self, pages: PageRange) -> None:
        self.page_requests.append(pages)
        self.requested.set()

    def pages(self, first: int, end: int) -> PageRange:
        return PageRange(PID, self.process.address + first * PAGE, end - first)

    def put(self, first: int, end: int) -> None:
        numbers = (number + OFFSET for number in range(first, end))
        content = b"".join(number.to_bytes(8, "little") + b"x" * (PAGE - 8) for number in numbers)
        at = 0
        for view in self.store.room(self.pages(first, end)):
            view[:] = content[at : at + len(view)]
            at += len(view)
        self.store.keep(self.pages(first, end))
        self.server.notify()

    def final(self) -> None:
        self.store.note(Milestone.FINAL)
        self.server.notify()

    def wait_ended(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.server.close()
        self._is_closed = True

    def close(self) -> None:
        self.process.close()
        if not self._is_closed:
            self.address_spaces.restore_finished = True
            self.store.note(Milestone.FINAL)
            self.server.notify()
            self.wait_ended()
        self.listener.close()
        self.store.close()
        os.close(self.log)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def numbered(first: int, end: int) -> list[int]:
    return [number + OFFSET for number in range(first, end)]


def test_all_pages_are_filled_once_the_restore_is_finished(node: Node) -> None:
    node.put(0, PAGES)
    node.final()
    node.process.ask("finish()")
    node.wait_ended()
    assert node.process.ask(f"words(0, {PAGES})") == numbered(0, PAGES)
    assert not node.page_requests


def test_notify_may_be_called_after_the_end(node: Node) -> None:
    server = node.server
    node.put(0, PAGES)
    node.final()
    node.process.ask("finish()")
    node.wait_ended()
    other = os.eventfd(0, os.EFD_NONBLOCK)  # takes the number of the server's own
    try:
        server.notify()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
    finally:
        os.close(other)


def test_a_page_touched_during_the_restore_is_filled(node: Node) -> None:
    node.put(0, PAGES)
    node.final()
    assert node.process.ask("words(700, 702)") == numbered(700, 702)


def test_a_page_is_not_filled_before_the_store_is_final(node: Node) -> None:
    node.put(0, PAGES)
    node.process.send("words(3, 4)")
    node.store.forget([node.pages(3, 4)])
    assert node.process.is_waiting
    node.final()
    assert node.requested.wait(20)
    assert node.process.is_waiting
    node.put(3, 4)
    assert node.process.answer() == numbered(3, 4)


def test_a_missing_page_is_requested_and_never_zeros(node: Node) -> None:
    node.put(0, 600)
    node.final()
    node.process.ask("finish()")
    node.process.send("words(900, 901)")
    assert node.requested.wait(20)
    assert any(one.address <= node.pages(900, 901).address < one.end for one in node.page_requests)
    assert node.process.is_waiting
    node.put(600, PAGES)
    assert node.process.answer() == numbered(900, 901)
    node.wait_ended()
    assert node.process.ask(f"words(0, {PAGES})") == numbered(0, PAGES)


def test_memory_that_is_not_in_the_images_is_zeros(tmp_path: Path) -> None:
    node = Node(tmp_path, lazy=range(100, 200))
    node.put(100, 200)
    node.final()
    assert node.process.ask("words(90, 110)") == [*[0] * 10, *numbered(100, 110)]
    node.process.ask("finish()")
    node.wait_ended()
    assert node.process.ask("words(0, 300)") == [*[0] * 100, *numbered(100, 200), *[0] * 100]
    node.close()


def test_pages_of_zeros_are_filled_without_content(node: Node) -> None:
    node.put(0, 10)
    node.store.keep_zero(node.pages(10, PAGES))
    node.final()
    node.process.ask("finish()")
    node.wait_ended()
    assert node.process.ask(f"words(0, {PAGES})") == [*numbered(0, 10), *[0] * (PAGES - 10)]


def test_a_page_that_the_process_has_dropped_does_not_come_back(node: Node) -> None:
    node.put(0, PAGES)
    node.final()
    assert node.process.ask("drop(10, 700)") == 0
    node.process.ask("finish()")
    node.wait_ended()
    expected = [*numbered(0, 10), *[0] * 690, *numbered(700, PAGES)]
    assert node.process.ask(f"words(0, {PAGES})") == expected


def test_a_page_that_the_process_has_moved_is_filled_at_its_new_address(node: Node) -> None:
    node.put(0, PAGES)
    node.final()
    node.process.ask("globals().update(place=move(600, 1200))")
    node.process.ask("finish()")
    node.wait_ended()
    assert node.process.ask("words(0, 600)") == numbered(0, 600)
    assert node.process.ask("words(0, 600, place)") == numbered(600, 1200)


def test_a_page_that_was_written_is_not_overwritten(node: Node) -> None:
    node.put(0, PAGES)
    node.final()
    node.process.ask("put(5, 77)")
    node.process.ask("finish()")
    node.wait_ended()
    assert node.process.ask("words(4, 7)") == [4 + OFFSET, 77, 6 + OFFSET]


def test_the_store_is_empty_once_all_pages_are_filled(node: Node) -> None:
    node.put(0, PAGES)
    node.final()
    node.process.ask("finish()")
    node.wait_ended()
    assert os.fstat(node.store.fd).st_blocks == 0


def test_the_server_does_not_wait_for_a_process_that_has_ended(node: Node) -> None:
    node.put(0, 10)
    node.final()
    node.process.ask("finish()")
    assert total(node.store.missing_ranges()) == PAGES - 10
    node.process.close()
    node.wait_ended()
