"""Ranges of pages of processes, and sets of pages with a byte per page.

No function here has a Python loop over pages: marks are bytes, which C code of the interpreter
searches and fills.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

PAGE_BYTES = mmap.PAGESIZE
CHUNK_PAGES = 512
"""Pages with one bytearray of marks: 2 MiB on x86-64, a huge page."""
CHUNK_BYTES = CHUNK_PAGES * PAGE_BYTES
ZERO_PAGE = bytes(PAGE_BYTES)

_ABSENT_RUNS = re.compile(rb"\x00+")


@dataclass(frozen=True, slots=True, order=True)
class PageRange:
    """Adjacent pages of one process; `pid` is the one in its own pid namespace."""

    pid: int
    address: int
    pages: int

    @property
    def bytes(self) -> int:
        return self.pages * PAGE_BYTES

    @property
    def end(self) -> int:
        return self.address + self.pages * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a range in one chunk: `first` is the number of its first page in the chunk."""

    chunk: tuple[int, int]
    first: int
    pages: int


def pieces(pages: PageRange) -> Iterator[Piece]:
    """Cut a range at the boundaries of chunks."""
    page, left = pages.address // PAGE_BYTES, pages.pages
    while left > 0:
        number, first = divmod(page, CHUNK_PAGES)
        size = min(left, CHUNK_PAGES - first)
        yield Piece((pages.pid, number), first, size)
        page += size
        left -= size


def joined(ranges: Iterable[PageRange]) -> tuple[PageRange, ...]:
    """Sort ranges, and join those that are adjacent or overlap."""
    found: list[PageRange] = []
    for one in sorted(ranges):
        last = found[-1] if found else None
        if last is not None and last.pid == one.pid and one.address <= last.end:
            end = max(last.end, one.end)
            found[-1] = PageRange(last.pid, last.address, (end - last.address) // PAGE_BYTES)
        else:
            found.append(one)
    return tuple(found)


def total(ranges: Iterable[PageRange]) -> int:
    """Count the pages."""
    return sum(one.pages for one in ranges)


def batches(ranges: Iterable[PageRange], *, pages: int) -> Iterator[tuple[PageRange, ...]]:
    """Group ranges into batches of at most `pages` pages of one process; cut longer ranges."""
    batch: list[PageRange] = []
    room = pages
    for one in ranges:
        rest = one
        while rest.pages:
            if batch and (room == 0 or batch[0].pid != rest.pid):
                yield tuple(batch)
                batch, room = [], pages
            size = min(room, rest.pages)
            batch.append(PageRange(rest.pid, rest.address, size))
            room -= size
            rest = PageRange(rest.pid, rest.address + size * PAGE_BYTES, rest.pages - size)
    if batch:
        yield tuple(batch)


class PageSet:
    """A set of pages, which are added, removed and looked up by ranges."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[int, int], bytearray] = {}

    def add(self, ranges: Iterable[PageRange]) -> None:
        for one in ranges:
            for piece in pieces(one):
                marks = self._chunks.get(piece.chunk)
                if marks is None:
                    marks = self._chunks[piece.chunk] = bytearray(CHUNK_PAGES)
                marks[piece.first : piece.first + piece.pages] = b"\1" * piece.pages

    def discard(self, ranges: Iterable[PageRange]) -> None:
        for one in ranges:
            for piece in pieces(one):
                marks = self._chunks.get(piece.chunk)
                if marks is not None:
                    marks[piece.first : piece.first + piece.pages] = bytes(piece.pages)

    def missing(self, ranges: Sequence[PageRange]) -> tuple[PageRange, ...]:
        """Return the pages of `ranges` that are not in the set."""
        found: list[PageRange] = []
        for one in ranges:
            for piece in pieces(one):
                found += absent(self._chunks.get(piece.chunk), piece)
        return joined(found)

    def __len__(self) -> int:
        return sum(marks.count(1) for marks in self._chunks.values())


def absent(marks: bytearray | None, piece: Piece) -> list[PageRange]:
    """Return the pages of a piece whose mark is zero."""
    pid, number = piece.chunk
    base = number * CHUNK_BYTES
    if marks is None:
        return [PageRange(pid, base + piece.first * PAGE_BYTES, piece.pages)]
    end = piece.first + piece.pages
    # the usual case, for a large memory during a freeze
    if marks.find(0, piece.first, end) < 0:
        return []
    found = _ABSENT_RUNS.finditer(marks, piece.first, end)
    return [
        PageRange(pid, base + run.start() * PAGE_BYTES, run.end() - run.start()) for run in found
    ]
