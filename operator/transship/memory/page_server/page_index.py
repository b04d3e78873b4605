"""The index of a page store, in a memory file that outlives the worker.

The file has a header, then a key per slot of the store, then a mark per page. A slot is 2 MiB; its
key says which chunk of which process it stores. Marks are changed by translation tables, because
bytes.translate runs at the speed of C.
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum

from transship.common.errors import TransshipError
from transship.linux.pages import CHUNK_BYTES, CHUNK_PAGES

ABSENT, STORED, ZERO, SPENT = range(4)
"""Marks of a page. SPENT: every process that needs it has it, and its content is not kept."""
EXPECTED = 4
"""Added to the mark of a page that a process needs."""

_HEADER_BYTES = mmap.PAGESIZE
_COUNT = struct.Struct("=Q")
_KEY = struct.Struct("=QQ")


class Milestone(IntEnum):
    """The offset of a byte in the header that is 1 once something has happened."""

    FINAL = 8  # the source is frozen: stored pages have their last content
    ENDED = 9  # the source has ended its stream
    EXPECTED = 10  # the pages that processes need are known
    RESTORE_FINISHED = 11  # all restored processes are known


def _becoming(mark: int, *, only: tuple[int, ...]) -> bytes:
    table = bytearray(range(256))
    for old in only:
        table[old], table[old | EXPECTED] = mark, mark | EXPECTED
    return bytes(table)


EVERY = (ABSENT, STORED, ZERO, SPENT)
TO_ABSENT = _becoming(ABSENT, only=EVERY)
TO_STORED = _becoming(STORED, only=(ABSENT,))
TO_ZERO = _becoming(ZERO, only=EVERY)
ABSENT_TO_ZERO = _becoming(ZERO, only=(ABSENT,))
TO_SPENT = _becoming(SPENT, only=EVERY)
TO_EXPECTED = bytes(mark | EXPECTED for mark in range(256))


class PageIndex:
    """Keys and marks of a store of `capacity` bytes, in the memory file `fd`."""

    def __init__(self, fd: int, *, capacity: int) -> None:
        self._slots = capacity // CHUNK_BYTES
        self._keys_at = _HEADER_BYTES
        self._marks_at = self._keys_at + self._slots * _KEY.size
        size = self._marks_at + self._slots * CHUNK_PAGES
        os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)

    def keys(self) -> list[tuple[int, int]]:
        """Return the pid and chunk number of each slot."""
        (count,) = _COUNT.unpack_from(self._map)
        end = self._keys_at + count * _KEY.size
        return [(pid, chunk) for pid, chunk in _KEY.iter_unpack(self._map[self._keys_at : end])]

    def append(self, key: tuple[int, int]) -> int:
        """Add a slot for a chunk. Returns its number."""
        (slot,) = _COUNT.unpack_from(self._map)
        if slot >= self._slots:
            raise TransshipError("storing pages: the store is full", reason="PagesLost")
        _KEY.pack_into(self._map, self._keys_at + slot * _KEY.size, *key)
        _COUNT.pack_into(self._map, 0, slot + 1)  # last: only a complete entry counts
        return int(slot)

    def marks(self, slot: int, first: int = 0, pages: int = CHUNK_PAGES) -> bytes:
        at = self._marks_at + slot * CHUNK_PAGES + first
        return self._map[at : at + pages]

    def change(self, slot: int, first: int, pages: int, *, table: bytes) -> tuple[bytes, bytes]:
        """Translate marks. Returns the old and the new ones."""
        at = self._marks_at + slot * CHUNK_PAGES + first
        before = self._map[at : at + pages]
        after = before.translate(table)
        self._map[at : at + pages] = after
        return before, after

    def note(self, milestone: Milestone) -> None:
        self._map[milestone] = 1

    def noted(self, milestone: Milestone) -> bool:
        return bool(self._map[milestone])

    def close(self) -> None:
        self._map.close()
