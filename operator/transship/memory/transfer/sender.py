"""The source's end of a page stream: ranges and their content out, one answer per flush back.

It works on a connected, blocking socket (mutual TLS between agents) in a thread of its own, where
OpenSSL runs outside of the interpreter's lock. Not for two threads at once, except `abort`.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import socket
import termios
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transship.api.placement import Compression
from transship.api.reasons import Reason
from transship.common.errors import Unreachable
from transship.linux.pages import PAGE_BYTES, ZERO_PAGE, PageRange, total
from transship.memory.transfer import wire_format
from transship.memory.transfer.compression import chooser_for
from transship.memory.transfer.packing import Packer
from transship.memory.transfer.wire_format import MessageKind
from transship.streams.bandwidth_limit import BandwidthLimit

STALL_TIMEOUT_SECONDS = 30.0
"""Of one send or receive, not of the whole: a peer that takes nothing for so long is gone."""
BUFFER_BYTES = 4 << 20

_UNMARKED = re.compile(rb"\x00+")


@dataclass(frozen=True, slots=True)
class _EncodedBatch:
    """A batch as it goes out. tried: to compress it; spent: the seconds that it took."""

    pages: int
    zero_pages: int
    content: int
    head: bytes
    body: bytes | memoryview
    tried: bool
    spent: float

    @property
    def bytes(self) -> int:
        return len(self.head) + len(self.body)


@dataclass(frozen=True)
class StoredTotals:
    """What the target has stored over this stream so far."""

    pages: int
    bytes: int


class PageSender:
    """Sends pages, no faster than the pace allows, compressed where the chooser says so."""

    def __init__(
        self,
        channel: socket.socket,
        *,
        bandwidth: BandwidthLimit | None = None,
        compression: Compression = Compression.NONE,
    ) -> None:
        channel.settimeout(STALL_TIMEOUT_SECONDS)
        # large buffers: the reading of memory and the sending of it overlap
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._channel = channel
        self._bandwidth = bandwidth or BandwidthLimit(None)
        self._chooser = chooser_for(compression)
        self._packer = Packer()
        self._aborted = threading.Event()
        self.sent_pages = 0
        self.zero_pages = 0
        self.content_bytes = 0
        self.body_bytes = 0
        self.sent_bytes = 0

    @property
    def is_limited(self) -> bool:
        return self._bandwidth.rate is not None

    def reserve(self, ranges: Iterable[PageRange]) -> None:
        """Tell the target that these pages will come, so that it has the memory at hand."""
        self._send_ranges(MessageKind.RESERVE, ranges)

    def invalidate(self, ranges: Iterable[PageRange]) -> None:
        """What was sent of these pages is not their content any more; they will be sent again."""
        self._send_ranges(MessageKind.STALE, ranges)

    def final(self) -> None:
        """The container is frozen: what was sent, and not taken back, is its pages' last content.

        Until then the target gives none of them to the restored processes.
        """
        self._send(wire_format.encode(MessageKind.FINAL))

    def ask_missing(self) -> tuple[PageRange, ...]:
        """Which pages the target knows to be wanted and does not have."""
        self._send(wire_format.encode(MessageKind.MISSING))
        found: list[PageRange] = []
        while ranges := wire_format.receive_ranges(self._channel, MessageKind.MISSING):
            found += ranges
        return tuple(found)

    def begin_page_requests(self) -> None:
        """From now on this stream is for what the target demands."""
        self._channel.settimeout(None)  # it demands when it has to; a dead host is noticed by TCP
        self._send(wire_format.encode(MessageKind.SERVE_REQUESTS))

    def next_page_request(self) -> tuple[PageRange, ...]:
        """Wait for the next; nothing when there will be no more. Raises Unreachable."""
        return wire_format.receive_ranges(self._channel, MessageKind.REQUEST)

    def _send_ranges(self, kind: MessageKind, ranges: Iterable[PageRange]) -> None:
        for group in wire_format.grouped(ranges):
            self._send(wire_format.encode(kind, group))

    def send(self, ranges: Sequence[PageRange], data: bytearray) -> None:
        """Send these pages of one process; `data` begins with their content, one after another."""
        message = self._message(ranges, data)
        self._aborted.wait(self._bandwidth.delay(message.bytes))
        self._transmit(message)

    def burst(self, ranges: Sequence[PageRange], data: bytearray) -> float:
        """The same at once, the limit notwithstanding; returns the seconds until it was stored."""
        self._flush()
        message = self._message(ranges, data)
        self._bandwidth.delay(message.bytes)  # what follows waits for it
        began = time.monotonic()
        self._transmit(message)
        self._flush()
        return time.monotonic() - began

    def _message(self, ranges: Sequence[PageRange], data: bytearray) -> _EncodedBatch:
        pages = total(ranges)
        marks = zero_marks(data, pages)
        content = _content(memoryview(data)[: pages * PAGE_BYTES], marks)
        packed: bytes | None = None
        began = time.monotonic()
        if content and self._chooser.compresses(backlog=self._backlog()):
            packed = self._packer.pack(content)
        size = len(content)
        small = packed is not None and len(packed) < size
        head = wire_format.encode(
            MessageKind.PAGES, ranges, marks=marks, packed=len(packed) if packed and small else None
        )
        body = packed if packed is not None and small else content
        return _EncodedBatch(
            pages, marks.count(1), size, head, body, packed is not None, time.monotonic() - began
        )

    def _transmit(self, message: _EncodedBatch) -> None:
        waited = time.monotonic()
        self._send_now(message.head)
        if message.body:
            self._send_now(message.body)
            self._chooser.note(
                compressed=message.tried,
                content=message.content,
                wire=len(message.body),
                seconds=message.spent + time.monotonic() - waited,
            )
        self.sent_pages += message.pages
        self.zero_pages += message.zero_pages
        self.content_bytes += message.content
        self.body_bytes += len(message.body)

    def _backlog(self) -> int:
        """Bytes that the socket has taken and not yet got rid of."""
        unsent = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._channel.fileno(), termios.TIOCOUTQ, unsent)
        return int.from_bytes(unsent, "little")

    def flush(self) -> StoredTotals:
        """Wait until all that was sent is stored. Raises Unreachable when it is not."""
        self._aborted.wait(self._bandwidth.delay(wire_format.HEADER_BYTES))
        return self._flush()

    def _flush(self) -> StoredTotals:
        self._send_now(wire_format.encode(MessageKind.FLUSH))
        answer = wire_format.receive_header(self._channel)
        if answer.kind is not MessageKind.FLUSHED or answer.pages != self.sent_pages:
            raise Unreachable(
                f"sending pages: the target has stored {answer.pages} of {self.sent_pages}",
                reason=Reason.TRANSFER_FAILED,
            )
        return StoredTotals(pages=answer.pages, bytes=answer.bytes)

    def end(self) -> StoredTotals:
        """Flush, and tell the target that no more will come."""
        stored = self.flush()
        self._send(wire_format.encode(MessageKind.END))
        return stored

    def abort(self) -> None:
        """Break the stream, from any thread: whatever waits on it fails."""
        self._aborted.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._channel, socket.SHUT_RDWR)

    def close(self) -> None:
        self._channel.close()

    def _send(self, data: bytes | memoryview) -> None:
        self._aborted.wait(self._bandwidth.delay(len(data)))
        self._send_now(data)

    def _send_now(self, data: bytes | memoryview) -> None:
        wire_format.send_all(self._channel, data)
        self.sent_bytes += len(data)


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
