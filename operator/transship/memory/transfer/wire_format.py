"""The messages of a page stream.

A message is a fixed little-endian header and what follows it:

    kind u8, flags u8, ranges u16, pid u32, pages u64, bytes u64
    then `ranges` times: address u64, pages u64
    then, with the flag MARKED, a byte per page: 1 for a page of zeros, which is not sent
    then the other pages, `bytes` in all; with the flag PACKED compressed together by zstd

The reply to FLUSH is FLUSHED, with the number of pages and bytes stored so far. STALE invalidates
pages. FINAL says that the container is frozen: valid pages, and those that come later, have their
last content. MISSING asks which pages are missing; the replies are of the same kind, and the last
one is empty. After SERVE_REQUESTS the target sends REQUEST with ranges of one process, and the
source replies with PAGES that has exactly these; an empty REQUEST is the last.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Unreachable
from transship.linux.pages import PAGE_BYTES, PageRange, total

MARKED = 1
PACKED = 2
MAX_RANGES = 4096
MAX_PAGES = 4096

_HEADER = struct.Struct("<BBHIQQ")
_RANGE = struct.Struct("<QQ")
HEADER_BYTES = _HEADER.size


class MessageKind(IntEnum):
    """The kind of a message."""

    PAGES = 1
    RESERVE = 2
    FLUSH = 3
    FLUSHED = 4
    END = 5
    STALE = 6
    FINAL = 7
    MISSING = 8
    SERVE_REQUESTS = 9
    REQUEST = 10


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a message."""

    kind: MessageKind
    flags: int = 0
    ranges: int = 0
    pid: int = 0
    pages: int = 0
    bytes: int = 0


def encode(
    kind: MessageKind,
    ranges: Sequence[PageRange] = (),
    *,
    marks: bytes = b"",
    packed: int | None = None,
) -> bytes:
    """Encode a message without its pages. All ranges are of one process.

    packed: the size of the pages if they are compressed.
    """
    pages = total(ranges)
    sent = 0
    if kind is MessageKind.PAGES:
        sent = (pages - marks.count(1)) * PAGE_BYTES if packed is None else packed
    pid = ranges[0].pid if ranges else 0
    flags = (MARKED if marks else 0) | (PACKED if packed is not None else 0)
    head = _HEADER.pack(kind, flags, len(ranges), pid, pages, sent)
    table = b"".join(_RANGE.pack(one.address, one.pages) for one in ranges)
    return head + table + marks


def encode_flushed(*, pages: int, size: int) -> bytes:
    return _HEADER.pack(MessageKind.FLUSHED, 0, 0, 0, pages, size)


def decode(data: bytes | bytearray | memoryview) -> Header:
    """Decode a header. Raises InvalidInput if it is not valid."""
    kind, flags, ranges, pid, pages, size = _HEADER.unpack(data)
    try:
        header = Header(MessageKind(kind), flags, ranges, pid, pages, size)
    except ValueError as e:
        raise InvalidInput(f"reading a page stream: there is no message kind {kind}") from e
    if ranges > MAX_RANGES or (header.kind is MessageKind.PAGES and pages > MAX_PAGES):
        raise InvalidInput(f"reading a page stream: {ranges} ranges, {pages} pages at once")
    return header


def table_bytes(header: Header) -> int:
    """Return the size of the ranges and marks that follow a header."""
    return header.ranges * _RANGE.size + (header.pages if header.flags & MARKED else 0)


def decode_table(
    header: Header, data: bytes | bytearray
) -> tuple[tuple[PageRange, ...], bytes | bytearray]:
    """Decode ranges and marks (b"" without marks). Raises InvalidInput if they are inconsistent."""
    size = header.ranges * _RANGE.size
    ranges = tuple(
        PageRange(header.pid, address, pages)
        for address, pages in _RANGE.iter_unpack(memoryview(data)[:size])
    )
    marks = data[size:]
    fits = total(ranges) == header.pages and all(one.address % PAGE_BYTES == 0 for one in ranges)
    if header.kind is MessageKind.PAGES:
        content = (header.pages - marks.count(1)) * PAGE_BYTES
        small = header.flags & PACKED and 0 < header.bytes < content
        fits = fits and (small or header.bytes == content)
    if not fits:
        raise InvalidInput("reading a page stream: ranges and header are inconsistent")
    return ranges, marks


def receive_into(channel: socket.socket, view: memoryview) -> None:
    """Fill the view. Raises Unreachable if the stream ends or stalls before."""
    at, size = 0, len(view)
    try:
        while at < size:
            got = channel.recv_into(view[at:])
            if got == 0:
                raise _broken("receiving pages: the stream has ended")
            at += got
    except OSError as e:  # TimeoutError and ssl.SSLError are
        raise _broken(f"receiving pages: {e}") from e


def receive_header(channel: socket.socket) -> Header:
    data = bytearray(HEADER_BYTES)
    receive_into(channel, memoryview(data))
    return decode(data)


def receive_ranges(channel: socket.socket, kind: MessageKind) -> tuple[PageRange, ...]:
    """Receive a message of this kind, which has only ranges."""
    header = receive_header(channel)
    if header.kind is not kind:
        raise InvalidInput(f"reading a page stream: {header.kind.name} instead of {kind.name}")
    data = bytearray(table_bytes(header))
    receive_into(channel, memoryview(data))
    return decode_table(header, data)[0]


def grouped(ranges: Iterable[PageRange]) -> Iterator[list[PageRange]]:
    """Yield groups of ranges of one process, each small enough for a message."""
    group: list[PageRange] = []
    for one in ranges:
        if group and (group[0].pid != one.pid or len(group) == MAX_RANGES):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def send_all(channel: socket.socket, data: bytes | bytearray | memoryview) -> None:
    """Send all of the data. Raises Unreachable if the stream is broken."""
    try:
        channel.sendall(data)
    except OSError as e:
        raise _broken(f"sending pages: {e}") from e


def _broken(message: str) -> Unreachable:
    return Unreachable(message, reason=Reason.TRANSFER_FAILED)
