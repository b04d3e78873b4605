"""The source's end of a page stream: it sends pages, and the target replies to each flush.

It works on a connected, blocking TLS socket in a thread of its own: OpenSSL runs without the
interpreter's lock. It is not thread-safe, except for `abort`.
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
"""Of one send or receive, not of the whole: a peer that takes nothing for so long is lost."""
BUFFER_BYTES = 4 << 20

_UNMARKED = re.compile(rb"\x00+")


@dataclass(frozen=True, slots=True)
class _EncodedBatch:
    """A batch as it is sent. is_compressed: that was tried; seconds: how long encoding took."""

    pages: int
    zero_pages: int
    content: int
    head: bytes
    body: bytes | memoryview
    is_compressed: bool
    seconds: float

    @property
    def bytes(self) -> int:
        return len(self.head) + len(self.body)


@dataclass(frozen=True)
class StoredTotals:
    """What the target has stored over this stream so far."""

    pages: int
    bytes: int


class PageSender:
    """Sends pages within the bandwidth limit, compressed if the chooser says so."""

    def __init__(
        self,
        channel: socket.socket,
        *,
        bandwidth: BandwidthLimit | None = None,
        compression: Compression = Compression.NONE,
    ) -> None:
        channel.settimeout(STALL_TIMEOUT_SECONDS)
        # large buffers: reading memory and sending it overlap
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
        """Tell the target that these pages will come, so that it allocates memory for them."""
        self._send_ranges(MessageKind.RESERVE, ranges)

    def invalidate(self, ranges: Iterable[PageRange]) -> None:
        """Tell the target that the content it has of these pages is stale. They are sent again."""
        self._send_ranges(MessageKind.STALE, ranges)

    def final(self) -> None:
        """Tell the target that the container is frozen, and that valid pages are final.

        Before that, the target fills no page into the restored processes.
        """
        self._send(wire_format.encode(MessageKind.FINAL))

    def ask_missing(self) -> tuple[PageRange, ...]:
        """Ask the target which of the pages that processes need it misses."""
        self._send(wire_format.encode(MessageKind.MISSING))
        missing: list[PageRange] = []
        while ranges := wire_format.receive_ranges(self._channel, MessageKind.MISSING):
            missing += ranges
        return tuple(missing)

    def begin_page_requests(self) -> None:
        """From now on this stream only serves the target's page requests."""
        self._channel.settimeout(None)  # requests may come at any time; TCP notices a dead host
        self._send(wire_format.encode(MessageKind.SERVE_REQUESTS))

    def next_page_request(self) -> tuple[PageRange, ...]:
        """Wait for the next request. Empty when there will be no more. Raises Unreachable."""
        return wire_format.receive_ranges(self._channel, MessageKind.REQUEST)

    def _send_ranges(self, kind: MessageKind, ranges: Iterable[PageRange]) -> None:
        for group in wire_format.grouped(ranges):
            self._send(wire_format.encode(kind, group))

    def send(self, ranges: Sequence[PageRange], data: bytearray) -> None:
        """Send pages of one process. `data` begins with their content, one after another."""
        message = self._message(ranges, data)
        self._aborted.wait(self._bandwidth.delay(message.bytes))
        self._transmit(message)

    def burst(self, ranges: Sequence[PageRange], data: bytearray) -> float:
        """Send pages without the bandwidth limit. Returns the seconds until they are stored."""
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
                compressed=message.is_compressed,
                content=message.content,
                wire=len(message.body),
                seconds=message.seconds + time.monotonic() - waited,
            )
        self.sent_pages += message.pages
        self.zero_pages += message.zero_pages
        self.content_bytes += message.content
        self.body_bytes += len(message.body)

    def _backlog(self) -> int:
        """Return the number of unsent bytes in the socket."""
        unsent = bytearray(4)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._channel.fileno(), termios.TIOCOUTQ, unsent)
        return int.from_bytes(unsent, "little")

    def flush(self) -> StoredTotals:
        """Wait until all sent pages are stored. Raises Unreachable if they are not."""
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
        """Break the stream, from any thread: pending calls fail."""
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
    """Return a byte per page, 1 for zeros; b"" if there are none. 60 ns for a page of content."""
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
