import socket
import struct

import pytest

from transship.transfer.lazy_server import LazyServer
from transship.transfer.page_ranges import CHUNK_BYTES, PAGE_BYTES, PageRange
from transship.transfer.page_store import PageStore

REQUEST = struct.Struct("=I4xQQQ")


class Daemon:
    """What CRIU's lazy-pages daemon does on its socket."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel

    def ask(self, pages: PageRange) -> bytes:
        self.channel.sendall(REQUEST.pack(7, pages.pages, pages.address, pages.pid))
        header = self.channel.recv(REQUEST.size, socket.MSG_WAITALL)
        assert REQUEST.unpack(header) == (6 | 4 << 16, pages.pages, pages.address, pages.pid)
        return self.channel.recv(pages.bytes, socket.MSG_WAITALL)

    def gone(self, pages: PageRange) -> bool:
        self.channel.sendall(REQUEST.pack(7, pages.pages, pages.address, pages.pid))
        return self.channel.recv(1) == b""


@pytest.fixture
def store():
    made = PageStore(capacity=4 * CHUNK_BYTES)
    for number, letter in enumerate((b"a", b"b")):
        page = PageRange(5, CHUNK_BYTES - PAGE_BYTES + number * PAGE_BYTES, 1)
        made.room(page)[0][:] = letter * PAGE_BYTES
        made.keep(page)
    made.keep_zero(PageRange(5, CHUNK_BYTES + PAGE_BYTES, 1))
    yield made
    made.close()


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_request_across_chunks_and_zeros_is_answered_in_full(store, ends) -> None:
    server = LazyServer(ends[0], store)
    server.start()
    got = Daemon(ends[1]).ask(PageRange(5, CHUNK_BYTES - PAGE_BYTES, 3))
    assert got == b"a" * PAGE_BYTES + b"b" * PAGE_BYTES + bytes(PAGE_BYTES)
    server.close()
    assert server.error is None
    assert (server.requests, server.pages) == (1, 3)


def test_a_page_that_nobody_has_breaks_the_connection(store, ends) -> None:
    server = LazyServer(ends[0], store)
    server.start()
    assert Daemon(ends[1]).gone(PageRange(5, 0, 1))
    assert server.wait(5)
    assert server.error is not None
    server.close()


def test_a_page_that_is_not_stored_comes_from_elsewhere(store, ends) -> None:
    server = LazyServer(ends[0], store, fallback=lambda hole: b"e" * hole.bytes)
    server.start()
    got = Daemon(ends[1]).ask(PageRange(5, CHUNK_BYTES - 3 * PAGE_BYTES, 4))
    assert got == b"e" * (2 * PAGE_BYTES) + b"a" * PAGE_BYTES + b"b" * PAGE_BYTES
    server.close()
    assert server.error is None


def test_content_of_the_wrong_size_is_not_passed_on(store, ends) -> None:
    server = LazyServer(ends[0], store, fallback=lambda _: b"short")
    server.start()
    assert Daemon(ends[1]).gone(PageRange(5, 0, 1))
    server.close()
    assert server.error is not None


@pytest.mark.parametrize("command", [0x1023, 0x1024])
def test_a_close_is_answered_and_the_end_is_no_error(store, ends, command) -> None:
    server = LazyServer(ends[0], store)
    server.start()
    ends[1].sendall(REQUEST.pack(command, 0, 0, 0))
    assert ends[1].recv(4, socket.MSG_WAITALL) == bytes(4)
    ends[1].shutdown(socket.SHUT_RDWR)
    assert server.wait(5)
    assert server.error is None
    server.close()
