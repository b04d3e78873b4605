"""The target's end of a page stream: it receives straight into the page store.

It works on a connected, blocking socket in a thread of its own. A page is stored once its whole
batch has arrived. So a stream that breaks leaves no page half old and half new.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Sequence

from transship.common.errors import InvalidInput, Unreachable
from transship.linux.pages import PAGE_BYTES, PageRange
from transship.memory.page_server.page_index import Milestone
from transship.memory.page_server.page_store import PageStore
from transship.memory.postcopy.page_requests import PageRequests
from transship.memory.transfer import wire_format
from transship.memory.transfer.packing import Unpacker
from transship.memory.transfer.wire_format import Header, MessageKind

BUFFER_BYTES = 4 << 20

_RUNS = re.compile(rb"\x00+|\x01+")


class PageReceiver:
    """Stores the pages of one stream, and calls `on_stored` after each batch."""

    def __init__(
        self,
        channel: socket.socket,
        store: PageStore,
        *,
        on_stored: Callable[[], None] = lambda: None,
        page_requests: PageRequests | None = None,
    ) -> None:
        # no timeout: the source may be silent between rounds for any time; closing ends the wait
        channel.settimeout(None)
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._channel = channel
        self._store = store
        unpacker = Unpacker()
        # once pages are final there may be several streams at a time, and the fault server fills
        # processes with a page that one has stored while another still unpacks the same page
        self._unpack = unpacker.unpack_apart if store.final else unpacker.unpack
        self._packed = bytearray()
        self._on_stored = on_stored
        self._page_requests = page_requests
        self.pages = 0
        self.bytes = 0

    def run(self) -> None:
        """Receive until the source ends the stream, or no page will be requested on it any more.

        Raises Unreachable when the stream breaks.
        """
        while (header := wire_format.receive_header(self._channel)).kind is not MessageKind.END:
            if header.kind is MessageKind.PAGES:
                self._receive(header)
            elif header.kind is MessageKind.SERVE_REQUESTS and self._page_requests is not None:
                self._page_requests.serve(self._channel, self._receive)
                if self._page_requests.closed:
                    wire_format.send_all(self._channel, wire_format.encode(MessageKind.REQUEST))
                    return
                raise Unreachable("requesting pages: there is a newer stream")
            else:
                self._handle_control(header)

    def _handle_control(self, header: Header) -> None:
        match header.kind:
            case MessageKind.RESERVE:
                self._store.reserve(self._table(header)[0])
            case MessageKind.FLUSH:
                done = wire_format.encode_flushed(pages=self.pages, size=self.bytes)
                wire_format.send_all(self._channel, done)
            case MessageKind.STALE:
                self._store.forget(self._table(header)[0])
            case MessageKind.FINAL:
                self._store.note(Milestone.FINAL)
                self._on_stored()
            case MessageKind.MISSING:
                for group in wire_format.grouped(self._store.missing_ranges()):
                    wire_format.send_all(
                        self._channel, wire_format.encode(MessageKind.MISSING, group)
                    )
                wire_format.send_all(self._channel, wire_format.encode(MessageKind.MISSING))
            case _:
                pass

    def abort(self) -> None:
        """Break the stream, from any thread: `run` then ends."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._channel, socket.SHUT_RDWR)

    def close(self) -> None:
        self._channel.close()

    def _receive(self, header: Header) -> None:
        ranges, marks = self._table(header)
        filled, zero = split_zero_pages(ranges, marks)
        rooms = [view for one in filled for view in self._store.room(one)]
        if header.flags & wire_format.PACKED:
            self._receive_packed(header.bytes, rooms)
        else:
            for view in rooms:
                wire_format.receive_into(self._channel, view)
        for one in filled:
            self._store.keep(one)
        for one in zero:
            self._store.keep_zero(one)
        self.pages += header.pages
        self.bytes += header.bytes
        self._on_stored()

    def _receive_packed(self, size: int, rooms: list[memoryview]) -> None:
        if len(self._packed) < size:
            self._packed = bytearray(size)
        data = memoryview(self._packed)[:size]
        wire_format.receive_into(self._channel, data)
        if not self._unpack(data, rooms):
            raise InvalidInput("reading a page stream: pages that cannot be decompressed")

    def _table(self, header: Header) -> tuple[tuple[PageRange, ...], bytes | bytearray]:
        data = bytearray(wire_format.table_bytes(header))
        wire_format.receive_into(self._channel, memoryview(data))
        return wire_format.decode_table(header, data)


def split_zero_pages(
    ranges: Sequence[PageRange], marks: bytes | bytearray
) -> tuple[list[PageRange], list[PageRange]]:
    """Split ranges into those that have content and those that are marked as zeros."""
    if not marks:
        return list(ranges), []
    parts: tuple[list[PageRange], list[PageRange]] = ([], [])
    at = 0
    for one in ranges:
        for run in _RUNS.finditer(marks, at, at + one.pages):
            address = one.address + (run.start() - at) * PAGE_BYTES
            size = run.end() - run.start()
            parts[marks[run.start()]].append(PageRange(one.pid, address, size))
        at += one.pages
    return parts
