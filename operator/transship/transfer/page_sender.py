"""The source's end of a page stream: ranges and their content out, one answer per flush back.

It works on a connected, blocking socket (mutual TLS between agents) in a thread of its own, where
OpenSSL runs outside of the interpreter's lock. Not for two threads at once, except `abort`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transship.common.errors import Unreachable
from transship.transfer import page_wire
from transship.transfer.page_ranges import PAGE_BYTES, ZERO_PAGE, PageRange, total
from transship.transfer.page_wire import Kind

STALL_TIMEOUT_SECONDS = 30.0
"""Of one send or receive, not of the whole: a peer that takes nothing for so long is gone."""
BUFFER_BYTES = 4 << 20
BURST_SECONDS = 0.02
"""How far a limited sender may run ahead of its rate."""

_UNMARKED = re.compile(rb"\x00+")


@dataclass(frozen=True)
class Stored:
    """What the target has stored over this stream so far."""

    pages: int
    bytes: int


class PageSender:
    """Sends pages; `max_bandwidth` is in bytes per second, None for as fast as it goes."""

    def __init__(self, channel: socket.socket, *, max_bandwidth: float | None = None) -> None:
        channel.settimeout(STALL_TIMEOUT_SECONDS)
        # large buffers: the reading of memory and the sending of it overlap
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._channel = channel
        self._pace = Pace(max_bandwidth)
        self._aborted = threading.Event()
        self.sent_pages = 0
        self.sent_bytes = 0

    def limit(self, max_bandwidth: float | None) -> None:
        """Change the rate; None lifts it, as for the blackout."""
        self._pace = Pace(max_bandwidth)

    def reserve(self, ranges: Iterable[PageRange]) -> None:
        """Tell the target that these pages will come, so that it has the memory at hand."""
        group: list[PageRange] = []
        for one in ranges:
            if group and (group[0].pid != one.pid or len(group) == page_wire.MAX_RANGES):
                self._send(page_wire.encode(Kind.RESERVE, group))
                group = []
            group.append(one)
        if group:
            self._send(page_wire.encode(Kind.RESERVE, group))

    def send(self, ranges: Sequence[PageRange], data: bytearray) -> None:
        """Send these pages of one process; `data` begins with their content, one after another."""
        pages = total(ranges)
        marks = zero_marks(data, pages)
        self._send(page_wire.encode(Kind.PAGES, ranges, marks=marks))
        content = _content(memoryview(data)[: pages * PAGE_BYTES], marks)
        if content:
            self._send(content)
        self.sent_pages += pages

    def flush(self) -> Stored:
        """Wait until all that was sent is stored. Raises Unreachable when it is not."""
        self._send(page_wire.encode(Kind.FLUSH))
        answer = page_wire.receive_header(self._channel)
        if answer.kind is not Kind.FLUSHED or answer.pages != self.sent_pages:
            raise Unreachable(
                f"sending pages: the target has stored {answer.pages} of {self.sent_pages}"
            )
        return Stored(pages=answer.pages, bytes=answer.bytes)

    def end(self) -> Stored:
        """Flush, and tell the target that no more will come."""
        stored = self.flush()
        self._send(page_wire.encode(Kind.END))
        return stored

    def abort(self) -> None:
        """Break the stream, from any thread: whatever waits on it fails."""
        self._aborted.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._channel, socket.SHUT_RDWR)

    def close(self) -> None:
        self._channel.close()

    def _send(self, data: bytes | memoryview) -> None:
        self._aborted.wait(self._pace.delay(len(data)))
        page_wire.send_all(self._channel, data)
        self.sent_bytes += len(data)


class Pace:
    """A token bucket: says how long to wait before the next bytes."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._due = time.monotonic()

    def delay(self, size: int) -> float:
        if self._rate is None:
            return 0.0
        now = time.monotonic()
        wait = max(0.0, self._due - now - BURST_SECONDS)
        self._due = max(self._due, now) + size / self._rate
        return wait


def zero_marks(data: bytearray, pages: int) -> bytes:
    """A byte per page, 1 for zeros; b"" when there are none. 60 ns for a page that is not zeros."""
    is_zeros = data.startswith
    marks = bytes([is_zeros(ZERO_PAGE, at) for at in range(0, pages * PAGE_BYTES, PAGE_BYTES)])
    return marks if 1 in marks else b""


def _content(view: memoryview, marks: bytes) -> bytes | memoryview:
    if not marks:
        return view
    runs = [
        view[run.start() * PAGE_BYTES : run.end() * PAGE_BYTES] for run in _UNMARKED.finditer(marks)
    ]
    # one copy of 1 MiB at most: many small records would cost more
    return runs[0] if len(runs) == 1 else b"".join(runs)
