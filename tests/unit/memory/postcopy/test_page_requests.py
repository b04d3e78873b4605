"""PageRequests over a socket pair, whose other end replies as a source does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from transship.linux.pages import PageRange
from transship.memory.postcopy.page_requests import PageRequests
from transship.memory.transfer import wire_format
from transship.memory.transfer.wire_format import Header, MessageKind

SECONDS = 20.0
WANTED = PageRange(1, 0x7F0000000000, 2)


@dataclass
class Stream:
    """One stream that requests are served on, in a thread of its own."""

    page_requests: PageRequests
    replies: list[Header] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source, self._target = socket.socketpair()
        self.source.settimeout(SECONDS)
        self._thread = threading.Thread(
            target=self.page_requests.serve, args=(self._target, self.replies.append)
        )
        self._thread.start()

    def next_request(self) -> tuple[PageRange, ...]:
        return wire_format.receive_ranges(self.source, MessageKind.REQUEST)

    def reply(self, pages: PageRange) -> None:
        wire_format.send_all(self.source, wire_format.encode(MessageKind.PAGES, [pages]))

    @property
    def has_ended(self) -> bool:
        self._thread.join(SECONDS)
        return not self._thread.is_alive()

    def close(self) -> None:
        self.source.close()
        self._target.close()


@pytest.fixture
def page_requests() -> Iterator[PageRequests]:
    requests = PageRequests()
    yield requests
    requests.close()


def test_pages_without_a_reply_are_requested_on_the_next_stream(
    page_requests: PageRequests,
) -> None:
    page_requests.add(WANTED)
    first = Stream(page_requests)
    assert first.next_request() == (WANTED,)
    second = Stream(page_requests)
    assert second.next_request() == (WANTED,)
    second.reply(WANTED)
    page_requests.close()
    assert second.has_ended
    assert [header.pages for header in second.replies] == [WANTED.pages]
    second.close()
    first.reply(WANTED)
    assert first.has_ended
    first.close()


def test_closing_ends_the_serving_of_requests(
    page_requests: PageRequests,
) -> None:
    stream = Stream(page_requests)
    page_requests.close()
    assert stream.has_ended
    stream.close()
