"""Pages that processes wait for and that only the source has: asked for on a stream of their own.

So they never wait behind what the source sends unasked. One question at a time, one answer each.
Whatever breaks, nothing is forgotten: a new stream begins with all that is still waited for.
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


class PageRequests:
    """Filled by the server's thread, emptied by that of the newest stream."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: dict[PageRange, bool] = {}  # whether it was asked for on this stream
        self._stream = 0
        self.closed = False

    def add(self, pages: PageRange) -> None:
        """Somebody waits for these; a repetition changes nothing."""
        with self._changed:
            if pages not in self._pending:
                self._pending[pages] = False
                self._changed.notify_all()

    def close(self) -> None:
        """Nobody will wait for anything any more: whoever serves is let go."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def serve(self, channel: socket.socket, receive: Callable[[Header], None]) -> None:
        """Ask on this stream, until another one follows it or all is closed.

        Raises Unreachable when it breaks.

        `receive` stores an answer.
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
                raise InvalidInput("receiving demanded pages: other ones have come")
            receive(header)
            with self._changed:
                for one in wanted:
                    self._pending.pop(one, None)

    def _next(self, stream: int) -> list[PageRange]:
        """What to ask for next, of one process; nothing once there is another stream."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or stream != self._stream or not all(self._pending.values())
            )
            if self.closed or stream != self._stream:
                return []
            found: list[PageRange] = []
            for one in [one for one, asked in self._pending.items() if not asked]:
                if found and (one.pid != found[0].pid or total(found) >= PAGES_AT_ONCE):
                    break
                found.append(one)
                self._pending[one] = True
            return found
