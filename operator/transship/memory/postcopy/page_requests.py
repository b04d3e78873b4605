"""Requests for pages that processes wait for and only the source has.

They have a page stream of their own, so that a requested page never waits behind pushed ones. There
is one request at a time, with one reply. When a stream breaks, the next one requests again what
processes still wait for.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from transship.common.errors import InvalidInput
from transship.linux.pages import PageRange, total
from transship.memory.transfer import wire_format
from transship.memory.transfer.wire_format import Header, MessageKind

PAGES_AT_ONCE = 256
"""In one request."""


class PageRequests:
    """The pending requests. The fault server adds them, the newest stream's thread serves them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: dict[PageRange, bool] = {}  # whether it was sent on the newest stream
        self._stream = 0
        self.closed = False

    def add(self, pages: PageRange) -> None:
        """Request pages that a process waits for. A repetition changes nothing."""
        with self._changed:
            if pages not in self._pending:
                self._pending[pages] = False
                self._changed.notify_all()

    def close(self) -> None:
        """End `serve`: no process will wait for a page any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def serve(self, channel: socket.socket, receive: Callable[[Header], None]) -> None:
        """Send requests on this stream, until there is a newer stream or `close` was called.

        `receive` stores a reply. Raises Unreachable when the stream breaks.
        """
        with self._changed:
            self._stream += 1
            stream = self._stream
            self._pending = dict.fromkeys(self._pending, False)
            self._changed.notify_all()
        while wanted := self._next(stream):
            wire_format.send_all(channel, wire_format.encode(MessageKind.REQUEST, wanted))
            header = wire_format.receive_header(channel)
            if header.kind is not MessageKind.PAGES or header.pages != total(wanted):
                raise InvalidInput("receiving requested pages: the reply has other pages")
            receive(header)
            with self._changed:
                for one in wanted:
                    self._pending.pop(one, None)

    def _next(self, stream: int) -> list[PageRange]:
        """Wait for the next pages to request, of one process; none once there is a newer stream."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or stream != self._stream or not all(self._pending.values())
            )
            if self.closed or stream != self._stream:
                return []
            request: list[PageRange] = []
            for one in [one for one, is_sent in self._pending.items() if not is_sent]:
                if request and (one.pid != request[0].pid or total(request) >= PAGES_AT_ONCE):
                    break
                request.append(one)
                self._pending[one] = True
            return request
