import os
import socket
import threading

import pytest

from transship.common.errors import InvalidInput, Unreachable
from transship.transfer import page_wire
from transship.transfer.page_ranges import CHUNK_BYTES, PAGE_BYTES, PageRange, total
from transship.transfer.page_receiver import PageReceiver
from transship.transfer.page_sender import Pace, PageSender
from transship.transfer.page_store import PageStore


class Link:
    """A sender and a receiver that runs in a thread, joined by a socket pair."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.sender = PageSender(ours)
        self.store = PageStore(capacity=8 * CHUNK_BYTES)
        self.receiver = PageReceiver(theirs, self.store)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.receiver.run()
        except (Unreachable, InvalidInput) as e:
            self.error = e

    def close(self) -> None:
        self.sender.abort()
        self.thread.join()
        self.sender.close()
        self.receiver.close()
        self.store.close()


@pytest.fixture
def link():
    made = Link()
    yield made
    made.close()


def content(link: Link, pages: PageRange) -> bytes:
    return b"".join(link.store.view(pages))


def test_scattered_pages_arrive_where_they_belong(link: Link) -> None:
    ranges = (PageRange(3, 0, 2), PageRange(3, CHUNK_BYTES - PAGE_BYTES, 3))
    data = bytearray(os.urandom(5 * PAGE_BYTES))
    link.sender.reserve(ranges)
    link.sender.send(ranges, data)
    assert link.sender.end().pages == 5
    link.thread.join()
    assert link.error is None
    assert b"".join(content(link, one) for one in ranges) == data


def test_pages_of_zeros_are_not_sent_but_stored(link: Link) -> None:
    data = bytearray(6 * PAGE_BYTES)
    data[PAGE_BYTES] = 1
    data[5 * PAGE_BYTES - 1] = 2
    ranges = (PageRange(3, 0, 3), PageRange(3, 8 * PAGE_BYTES, 3))
    link.sender.send(ranges, data)
    stored = link.sender.flush()
    assert (stored.pages, stored.bytes) == (6, 2 * PAGE_BYTES)
    assert b"".join(content(link, one) for one in ranges) == data
    assert link.store.missing(ranges) == ()


def test_the_buffer_may_be_larger_than_the_pages(link: Link) -> None:
    data = bytearray(b"x" * (9 * PAGE_BYTES))
    link.sender.send((PageRange(3, 0, 1),), data)
    assert link.sender.flush().bytes == PAGE_BYTES


def test_a_stream_that_breaks_within_a_batch_leaves_its_pages_missing(link: Link) -> None:
    pages = (PageRange(3, 0, 4),)
    link.sender.send(pages, bytearray(b"o" * (4 * PAGE_BYTES)))
    link.sender.flush()
    channel = link.sender._channel
    channel.sendall(page_wire.encode(page_wire.Kind.PAGES, pages) + b"n" * 100)
    link.sender.abort()
    link.thread.join()
    assert isinstance(link.error, Unreachable)
    assert total(link.store.missing(pages)) == 4


def test_a_flush_fails_when_the_target_is_gone(link: Link) -> None:
    link.receiver.abort()
    with pytest.raises(Unreachable):
        link.sender.flush()


def test_a_message_of_no_known_kind_ends_the_stream(link: Link) -> None:
    link.sender._channel.sendall(b"\xff" * page_wire.HEADER_BYTES)
    link.thread.join()
    assert isinstance(link.error, InvalidInput)


def test_a_limited_sender_waits_for_its_turn() -> None:
    pace = Pace(1000.0)
    assert pace.delay(1000) == 0.0
    assert 0.9 < pace.delay(1000) < 1.0
    assert 1.9 < pace.delay(1) < 2.0
