"""The target's store of a container's pages, before and after the restore.

It is one memory file (memfd), mapped once, and far larger than its content: only pages that were
written take memory, and closing it frees all of it. Pages are received straight into the mapping
and filled into processes straight from it. The index is a memory file as well: a worker that
inherits both continues with them.

Until the store is `final`, a page may be stored repeatedly. From then on its first content stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transship.linux.pages import (
    CHUNK_BYTES,
    CHUNK_PAGES,
    PAGE_BYTES,
    PageRange,
    Piece,
    joined,
    pieces,
)
from transship.memory.page_server import page_index
from transship.memory.page_server.page_index import ABSENT, EXPECTED, Milestone, PageIndex

CAPACITY_BYTES = 1 << 40
"""Only address space: what was not written of a sparse file takes no memory."""
ARRIVALS_KEPT = 1 << 16

_MADV_REMOVE = 9
_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MISSING = ABSENT | EXPECTED
_NEEDED = re.compile(rb"[\x04\x05]")
"""Expected pages that are stored, or may be arriving at this moment."""
_RUN_OF_MISSING = re.compile(rb"\x04+")
_RUN_OF_ABSENT = re.compile(rb"[\x00\x04]+")
_RUN = re.compile(rb"[\x00\x04]+|[\x01\x05]+|[\x02\x06]+|[\x03\x07]+")
_DISCARDED = memoryview(bytearray(CHUNK_BYTES))
# mmap.madvise keeps the interpreter's lock, for 100 ms and more when it allocates
_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring pages with the same mark. `content` is the address of the first one."""

    pages: PageRange
    mark: int
    content: int


class PageStore:
    """Pages by process and address. Several threads may store pages, one may spend them."""

    def __init__(
        self, *, fd: int | None = None, index_fd: int | None = None, capacity: int = CAPACITY_BYTES
    ) -> None:
        """With the descriptors of an earlier store, it has the content of that one."""
        self.fd = os.memfd_create("transship-pages") if fd is None else fd
        self.index_fd = os.memfd_create("transship-index") if index_fd is None else index_fd
        os.ftruncate(self.fd, capacity)
        self._map = mmap.mmap(self.fd, capacity)
        self._view = memoryview(self._map)
        anchor = ctypes.c_char.from_buffer(self._map)
        self._base = ctypes.addressof(anchor)
        del anchor  # it would keep the mapping from being closed
        self._index = PageIndex(self.index_fd, capacity=capacity)
        self._slots = {key: slot for slot, key in enumerate(self._index.keys())}
        self._lock = threading.Lock()
        self._missing = sum(self._index.marks(slot).count(_MISSING) for slot in range(len(self)))
        self.arrivals: deque[PageRange] = deque(maxlen=ARRIVALS_KEPT)
        """Pages that arrived, the newest last. Whoever fills them takes them out."""
        self.received = 0
        """The number of pages that were stored, repeated ones too."""

    def __len__(self) -> int:
        return len(self._slots)

    def reserve(self, ranges: Sequence[PageRange]) -> None:
        """Allocate memory for these pages: writing into fresh memory is several times slower.

        Measured for 256 MiB: 740 MB/s without, 3,600 MB/s with small pages, more with huge ones. A
        chunk of which more than half will be filled gets a huge page, if the kernel has one.
        """
        wanted: dict[tuple[int, int], int] = {}
        for piece in _pieces(ranges):
            wanted[piece.chunk] = wanted.get(piece.chunk, 0) + piece.pages
        for chunk, size in wanted.items():
            if size > CHUNK_PAGES // 2:
                self._advise(self._slot(chunk) * CHUNK_BYTES, CHUNK_BYTES, _MADV_HUGEPAGE)
        for piece in _pieces(ranges):
            offset = _offset(self._slot(piece.chunk), piece)
            self._advise(offset, piece.pages * PAGE_BYTES, _MADV_POPULATE_WRITE)

    def room(self, pages: PageRange) -> list[memoryview]:
        """Return where to write the content of these pages. They are missing until `keep`.

        Once the store is final, stored pages stay as they are: what is written for them is
        discarded.
        """
        views: list[memoryview] = []
        for piece in pieces(pages):
            slot = self._slot(piece.chunk)
            if self.final:
                views += self._rest_of_room(slot, piece)
            else:
                self._change(slot, piece, page_index.TO_ABSENT)
                views.append(self._cut(slot, piece))
        return views

    def _rest_of_room(self, slot: int, piece: Piece) -> Iterator[memoryview]:
        marks = self._index.marks(slot, piece.first, piece.pages)
        at = 0
        for run in _RUN_OF_ABSENT.finditer(marks):
            if at < run.start():
                yield _DISCARDED[: (run.start() - at) * PAGE_BYTES]
            size = run.end() - run.start()
            yield self._cut(slot, Piece(piece.chunk, piece.first + run.start(), size))
            at = run.end()
        if at < piece.pages:
            yield _DISCARDED[: (piece.pages - at) * PAGE_BYTES]

    def keep(self, pages: PageRange) -> None:
        """Mark these pages as stored: their content was written into their `room`."""
        self._change_all([pages], page_index.TO_STORED)
        self._note_arrival(pages)

    def keep_zero(self, pages: PageRange) -> None:
        """Mark these pages as zeros."""
        table = page_index.ABSENT_TO_ZERO if self.final else page_index.TO_ZERO
        self._change_all([pages], table)
        self._note_arrival(pages)

    def _note_arrival(self, pages: PageRange) -> None:
        self.arrivals.append(pages)
        self.received += pages.pages  # only shows progress: concurrent threads may lose an update

    def forget(self, ranges: Sequence[PageRange]) -> None:
        """Mark these pages as absent: their stored content is stale."""
        self._change_all(ranges, page_index.TO_ABSENT)

    def expect(self, ranges: Iterable[PageRange]) -> None:
        """Set the pages that processes need. These are all of them."""
        self._change_all(ranges, page_index.TO_EXPECTED)
        self._index.note(Milestone.EXPECTED)

    def note(self, milestone: Milestone) -> None:
        """Record a milestone. After FINAL the content of a stored page is never replaced."""
        self._index.note(milestone)

    @property
    def final(self) -> bool:
        return self._index.noted(Milestone.FINAL)

    @property
    def ended(self) -> bool:
        """The source has ended its stream."""
        return self._index.noted(Milestone.ENDED)

    @property
    def expecting(self) -> bool:
        """The pages that processes need are known."""
        return self._index.noted(Milestone.EXPECTED)

    @property
    def missing(self) -> int:
        """The number of expected pages that are not stored."""
        return self._missing

    def missing_ranges(self) -> tuple[PageRange, ...]:
        """The expected pages that are not stored."""
        with self._lock:
            slots = list(self._slots.items())
        missing: list[PageRange] = []
        for chunk, slot in slots:
            for run in _RUN_OF_MISSING.finditer(self._index.marks(slot)):
                missing.append(_range(chunk, run.start(), run.end()))
        return joined(missing)

    def not_stored(self, ranges: Sequence[PageRange]) -> tuple[PageRange, ...]:
        """Return the pages of these ranges that are not stored, expected or not."""
        return joined(run.pages for one in ranges for run in self.runs(one) if run.mark == ABSENT)

    def runs(self, pages: PageRange) -> Iterator[Run]:
        """Yield these pages in order, in runs with the same mark."""
        for piece in pieces(pages):
            slot = self._slots.get(piece.chunk)
            if slot is None:
                yield Run(_range(piece.chunk, piece.first, piece.first + piece.pages), ABSENT, 0)
                continue
            marks = self._index.marks(slot, piece.first, piece.pages)
            for run in _RUN.finditer(marks):
                first = piece.first + run.start()
                content = self._base + slot * CHUNK_BYTES + first * PAGE_BYTES
                run_pages = _range(piece.chunk, first, piece.first + run.end())
                yield Run(run_pages, marks[run.start()] & ~EXPECTED, content)

    def content(self, run: Run) -> memoryview:
        """Return the content of a stored run."""
        offset = run.content - self._base
        return self._view[offset : offset + run.pages.bytes]

    def spend(self, pages: PageRange) -> None:
        """Every process that needs these pages has them. Frees chunks that no process needs."""
        for piece in pieces(pages):
            slot = self._slot(piece.chunk)
            self._change(slot, piece, page_index.TO_SPENT)
            if not _NEEDED.search(self._index.marks(slot)):
                self._advise(slot * CHUNK_BYTES, CHUNK_BYTES, _MADV_REMOVE)

    def close(self) -> None:
        """Free everything, at the latest with the last view (a broken stream may have some)."""
        if self.fd >= 0:
            self._view.release()
            with contextlib.suppress(BufferError):
                self._map.close()
            self._index.close()
            os.close(self.fd)
            os.close(self.index_fd)
            self.fd = -1

    def _advise(self, offset: int, size: int, advice: int) -> None:
        """Best effort: an older kernel refuses, and then allocates pages as they are used."""
        _madvise(self._base + offset, size, advice)

    def _slot(self, chunk: tuple[int, int]) -> int:
        slot = self._slots.get(chunk)
        if slot is None:
            with self._lock:
                slot = self._slots.get(chunk)
                if slot is None:
                    slot = self._slots[chunk] = self._index.append(chunk)
        return slot

    def _change_all(self, ranges: Iterable[PageRange], table: bytes) -> None:
        for piece in _pieces(ranges):
            self._change(self._slot(piece.chunk), piece, table)

    def _change(self, slot: int, piece: Piece, table: bytes) -> None:
        with self._lock:
            before, after = self._index.change(slot, piece.first, piece.pages, table=table)
            self._missing += after.count(_MISSING) - before.count(_MISSING)

    def _cut(self, slot: int, piece: Piece) -> memoryview:
        offset = _offset(slot, piece)
        return self._view[offset : offset + piece.pages * PAGE_BYTES]


def _offset(slot: int, piece: Piece) -> int:
    return slot * CHUNK_BYTES + piece.first * PAGE_BYTES


def _range(chunk: tuple[int, int], first: int, end: int) -> PageRange:
    pid, number = chunk
    return PageRange(pid, number * CHUNK_BYTES + first * PAGE_BYTES, end - first)


def _pieces(ranges: Iterable[PageRange]) -> Iterator[Piece]:
    for one in ranges:
        yield from pieces(one)
