"""A log of what happens to the processes that get lazy pages, in a memory file.

The file outlives the worker that writes it. An entry has 40 bytes: the process, by the number of
the entry that added it, and a message of its userfaultfd in the kernel's format. Notes of the
worker itself have the same format. A message is read straight into the log, because the process
continues as soon as it was read: a worker that dies then must not lose it. Otherwise a page that
the process has dropped would come back.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from transship.linux import userfaultfd
from transship.linux.userfaultfd import EVENT_BYTES, EventKind

CAPACITY = 1 << 22
"""In entries. Only those are kept that change which pages a process still misses."""

_COUNT = struct.Struct("=Q")
_PROCESS = struct.Struct("=Q")
_NOTE = struct.Struct("=B7x3Q")
_ENTRY_BYTES = _PROCESS.size + EVENT_BYTES
_FIRST = mmap.PAGESIZE


class NoteKind(IntEnum):
    """Notes of the worker, besides the kernel's events."""

    ADDED = 0x80  # words: pid in the images, descriptor
    REMOVED = 0x81
    RESTORE_FINISHED = 0x82  # from now on pages may be given before a process touches them


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `number` identifies the process that the entry added, if it did."""

    number: int
    process: int
    kind: EventKind | NoteKind
    words: tuple[int, int, int]


class EventLog:
    """The log of one page server. Only one worker writes at a time."""

    def __init__(self, fd: int) -> None:
        size = _FIRST + CAPACITY * _ENTRY_BYTES
        os.ftruncate(fd, size)
        self._map = mmap.mmap(fd, size)
        self._view = memoryview(self._map)
        self._count = int(_COUNT.unpack_from(self._map)[0])
        self._recover()

    def _recover(self) -> None:
        """Keep what an earlier worker had read, and had not kept yet."""
        kind = self._map[self._tail + _PROCESS.size]
        if kind in set(EventKind) - {EventKind.FAULT}:
            self.keep()

    @property
    def _tail(self) -> int:
        return _FIRST + self._count * _ENTRY_BYTES

    def read(self, fd: int, *, process: int) -> userfaultfd.Event | None:
        """Read a message of a userfaultfd; None when there is none. Lost unless `keep` follows."""
        at = self._tail + _PROCESS.size
        self._map[at] = 0
        _PROCESS.pack_into(self._map, self._tail, process)
        message = self._view[at : at + EVENT_BYTES]
        try:
            os.readv(fd, [message])
        except BlockingIOError:
            return None
        return userfaultfd.event(message)

    def keep(self) -> int:
        """Keep the message that was read last. Returns its number."""
        self._count += 1
        _COUNT.pack_into(self._map, 0, self._count)
        return self._count - 1

    def note(self, kind: NoteKind, *, process: int = 0, words: tuple[int, int] = (0, 0)) -> int:
        """Write a note. Returns its number."""
        _PROCESS.pack_into(self._map, self._tail, process)
        _NOTE.pack_into(self._map, self._tail + _PROCESS.size, kind, *words, 0)
        return self.keep()

    def entries(self) -> Iterator[Entry]:
        """Yield what was kept, the oldest first."""
        for number in range(self._count):
            at = _FIRST + number * _ENTRY_BYTES
            (process,) = _PROCESS.unpack_from(self._map, at)
            kind, *words = _NOTE.unpack_from(self._map, at + _PROCESS.size)
            known = NoteKind(kind) if kind in set(NoteKind) else EventKind(kind)
            yield Entry(number, process, known, (words[0], words[1], words[2]))
