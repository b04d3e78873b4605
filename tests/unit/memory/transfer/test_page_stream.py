import os
import socket
import threading
from collections.abc import Iterator

import pytest

from fakes.stored import content
from transship.api.placement import Compression
from transship.common.errors import InvalidInput, Unreachable
from transship.linux.pages import CHUNK_BYTES, PAGE_BYTES, PageRange, total
from transship.memory.page_server.page_index import Milestone
from transship.memory.page_server.page_store import PageStore
from transship.memory.transfer import receiver as page_receiver
from transship.memory.transfer import wire_format
from transship.memory.transfer.packing import Packer, Unpacker
from transship.memory.transfer.receiver import PageReceiver
from transship.memory.transfer.sender import PageSender
from transship.streams.bandwidth_limit import BandwidthLimit


class Link:
    """A sender, and a receiver in a thread, connected by a socket pair."""

    def __init__(self, store: PageStore | None = None) -> None:
        ours, theirs = socket.socketpair()
        self.sender = PageSender(ours)
        self.store = PageStore(capacity=8 * CHUNK_BYTES) if store is None else store
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
def link() -> Iterator[Link]:
    link = Link()
    yield link
    link.close()


def test_scattered_pages_arrive_where_they_belong(link: Link) -> None:
    ranges = (PageRange(3, 0, 2), PageRange(3, CHUNK_BYTES - PAGE_BYTES, 3))
    data = bytearray(os.urandom(5 * PAGE_BYTES))
    link.sender.reserve(ranges)
    link.sender.send(ranges, data)
    assert link.sender.end().pages == 5
    link.thread.join()
    assert link.error is None
    assert b"".join(content(link.store, one) for one in ranges) == data


def test_pages_of_zeros_are_not_sent_but_stored(link: Link) -> None:
    data = bytearray(6 * PAGE_BYTES)
    data[PAGE_BYTES] = 1
    data[5 * PAGE_BYTES - 1] = 2
    ranges = (PageRange(3, 0, 3), PageRange(3, 8 * PAGE_BYTES, 3))
    link.sender.send(ranges, data)
    stored = link.sender.flush()
    assert (stored.pages, stored.bytes) == (6, 2 * PAGE_BYTES)
    assert b"".join(content(link.store, one) for one in ranges) == data
    assert link.store.not_stored(ranges) == ()


def test_the_buffer_may_be_larger_than_the_pages(link: Link) -> None:
    data = bytearray(b"x" * (9 * PAGE_BYTES))
    link.sender.send((PageRange(3, 0, 1),), data)
    assert link.sender.flush().bytes == PAGE_BYTES


def test_a_stream_that_breaks_within_a_batch_leaves_its_pages_missing(link: Link) -> None:
    pages = (PageRange(3, 0, 4),)
    link.sender.send(pages, bytearray(b"o" * (4 * PAGE_BYTES)))
    link.sender.flush()
    channel = link.sender._channel
    channel.sendall(wire_format.encode(wire_format.MessageKind.PAGES, pages) + b"n" * 100)
    link.sender.abort()
    link.thread.join()
    assert isinstance(link.error, Unreachable)
    assert total(link.store.not_stored(pages)) == 4


def test_a_flush_fails_without_the_target(link: Link) -> None:
    link.receiver.abort()
    with pytest.raises(Unreachable, check=lambda e: e.reason == "TransferFailed"):
        link.sender.flush()


def test_a_message_of_unknown_kind_ends_the_stream(link: Link) -> None:
    link.sender._channel.sendall(b"\xff" * wire_format.HEADER_BYTES)
    link.thread.join()
    assert isinstance(link.error, InvalidInput)


def compressed(link: Link, wish: Compression) -> PageSender:
    """Another sender on the same connection."""
    return PageSender(link.sender._channel, compression=wish)


def test_compressed_pages_arrive_unchanged_and_take_less(link: Link) -> None:
    ranges = (PageRange(3, 0, 3), PageRange(3, CHUNK_BYTES - PAGE_BYTES, 3))
    data = bytearray(b"".join(bytes([65 + page]) * PAGE_BYTES for page in range(6)))
    data[PAGE_BYTES : 2 * PAGE_BYTES] = bytes(PAGE_BYTES)
    sender = compressed(link, Compression.ZSTD)
    sender.send(ranges, data)
    assert sender.flush().bytes < PAGE_BYTES
    assert b"".join(content(link.store, one) for one in ranges) == data
    assert sender.content_bytes == 5 * PAGE_BYTES
    assert sender.body_bytes < PAGE_BYTES


def test_a_page_that_another_stream_has_stored_never_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fault server may be filling a process with it."""
    page, data = PageRange(3, 0, 1), b"p" * PAGE_BYTES
    store = PageStore(capacity=8 * CHUNK_BYTES)
    given: list[bytes] = []

    class Striding(Unpacker):
        def unpack(self, packed: memoryview, rooms: list[memoryview]) -> bool:
            store.room(page)[0][:] = data
            store.keep(page)
            for room in rooms:
                room[:] = b"?" * len(room)
            given.append(content(store, page))
            return super().unpack(packed, rooms)

    monkeypatch.setattr(page_receiver, "Unpacker", Striding)
    store.note(Milestone.FINAL)
    late = Link(store)
    try:
        sender = compressed(late, Compression.ZSTD)
        sender.send((page,), bytearray(data))
        sender.flush()
        assert given == [data]
        assert content(store, page) == data
    finally:
        late.close()


def test_pages_that_compression_does_not_shrink_are_sent_uncompressed(link: Link) -> None:
    data = bytearray(os.urandom(4 * PAGE_BYTES))
    sender = compressed(link, Compression.ZSTD)
    sender.send((PageRange(3, 0, 4),), data)
    assert sender.flush().bytes == 4 * PAGE_BYTES
    assert content(link.store, PageRange(3, 0, 4)) == data


@pytest.mark.parametrize("damage", ["garbage", "too little", "too much"])
def test_pages_that_cannot_be_decompressed_end_the_stream(link: Link, damage: str) -> None:
    pages = (PageRange(3, 0, 4),)
    size = {"garbage": 0, "too little": 3, "too much": 5}[damage] * PAGE_BYTES
    packed = Packer().pack(b"x" * size) if size else b"no zstd at all"
    head = wire_format.encode(wire_format.MessageKind.PAGES, pages, packed=len(packed))
    link.sender._channel.sendall(head + packed)
    link.thread.join()
    assert isinstance(link.error, InvalidInput)
    assert total(link.store.not_stored(pages)) == 4


def test_a_burst_is_not_delayed_but_counts(link: Link) -> None:
    now = [0.0]
    bandwidth = BandwidthLimit(PAGE_BYTES, clock=lambda: now[0])
    sender = PageSender(link.sender._channel, bandwidth=bandwidth)
    sender.burst((PageRange(3, 0, 2),), bytearray(b"b" * (2 * PAGE_BYTES)))
    assert link.store.not_stored([PageRange(3, 0, 2)]) == ()
    assert bandwidth.delay(1) > 1.9
