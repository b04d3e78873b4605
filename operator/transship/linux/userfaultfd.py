"""Fills the missing pages of another process through its userfaultfd (userfaultfd(2)).

The userfaultfd is non-cooperative: the kernel also reports forks, and memory that was moved,
dropped or unmapped. The process waits until such an event is read, and meanwhile no page can be
filled.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from dataclasses import dataclass
from enum import Enum, IntEnum

from transship.linux.pages import PAGE_BYTES

_WAKE = 0x8010AA02
_COPY = 0xC028AA03
_ZEROPAGE = 0xC020AA04
_CONTINUE = 0xC020AA07

_RANGE = struct.Struct("=2Q")
_COPY_WORDS = struct.Struct("=4Qq")
_ZERO_WORDS = struct.Struct("=3Qq")
_EVENT = struct.Struct("=B7x3Q")
EVENT_BYTES = _EVENT.size

_SOMEWHERE = 1 << 20

_ENDED = {errno.ESRCH, errno.ENOSPC}
"""The process has ended; before Linux 4.13 the error was ENOSPC."""


class EventKind(IntEnum):
    """What the kernel reports."""

    FAULT = 0x12
    FORK = 0x13
    REMAP = 0x14
    REMOVE = 0x15
    UNMAP = 0x16


@dataclass(frozen=True, slots=True)
class Event:
    """One message.

    Its words are, for FAULT: flags, address; for FORK: descriptor; for REMAP: from, to, length; for
    REMOVE and UNMAP: start, end.
    """

    kind: EventKind
    words: tuple[int, int, int]

    @property
    def address(self) -> int:
        """Of a fault: where its page begins."""
        return self.words[1] & -PAGE_BYTES

    @property
    def descriptor(self) -> int:
        """Of a fork: the child's userfaultfd, open in this process since the message was read."""
        return self.words[0] & 0xFFFFFFFF


class Filled(Enum):
    """Whether all pages were filled, or why the first of the others was not."""

    ALL = "All"
    THERE = "There"
    """The page is present already."""
    BUSY = "Busy"
    """An event has to be read first."""
    UNKNOWN = "Unknown"
    """The range is not within one registered mapping."""
    GONE = "Gone"
    """The process has ended."""
    NO_MEMORY = "NoMemory"


def event(message: bytes | memoryview) -> Event:
    """Decode a message. Raises ValueError for an unknown one."""
    kind, *words = _EVENT.unpack(message)
    return Event(EventKind(kind), (words[0], words[1], words[2]))


def copy(fd: int, *, to: int, source: int, pages: int) -> tuple[int, Filled]:
    """Fill pages from this process's memory, and wake their waiters; returns how many, and why."""
    argument = bytearray(_COPY_WORDS.pack(to, source, pages * PAGE_BYTES, 0, 0))
    return _fill(fd, _COPY, argument, words=_COPY_WORDS, pages=pages)


def zero(fd: int, *, to: int, pages: int) -> tuple[int, Filled]:
    """Fill pages with zeros, like `copy`."""
    argument = bytearray(_ZERO_WORDS.pack(to, pages * PAGE_BYTES, 0, 0))
    return _fill(fd, _ZEROPAGE, argument, words=_ZERO_WORDS, pages=pages)


def wake(fd: int, *, start: int, pages: int) -> None:
    """Wake the tasks that wait for these pages."""
    _tolerant(fd, _WAKE, bytearray(_RANGE.pack(start, pages * PAGE_BYTES)))


def ended(fd: int) -> bool:
    """Whether the process has ended.

    It tries UFFDIO_CONTINUE, which does nothing to private memory (Linux 5.13).
    """
    try:
        fcntl.ioctl(fd, _CONTINUE, bytearray(_ZERO_WORDS.pack(_SOMEWHERE, PAGE_BYTES, 0, 0)))
    except OSError as e:
        return e.errno in _ENDED
    return False


def _fill(
    fd: int, code: int, argument: bytearray, *, words: struct.Struct, pages: int
) -> tuple[int, Filled]:
    try:
        fcntl.ioctl(fd, code, argument)
    except OSError as e:
        done: int = words.unpack(argument)[-1]
        return max(done, 0) // PAGE_BYTES, _why(e, done)
    return pages, Filled.ALL


def _why(error: OSError, done: int) -> Filled:
    """Explain an error; the kernel reports a part that was filled as EAGAIN."""
    match error.errno:
        case errno.EAGAIN:
            return Filled.ALL if done > 0 else Filled.BUSY
        case errno.EEXIST:
            return Filled.THERE
        case errno.ENOENT:
            return Filled.UNKNOWN
        case errno.ENOMEM:
            return Filled.NO_MEMORY
        case number if number in _ENDED:
            return Filled.GONE
        case _:
            raise error


def _tolerant(fd: int, code: int, argument: bytearray) -> None:
    try:
        fcntl.ioctl(fd, code, argument)
    except OSError as e:
        if e.errno not in _ENDED | {errno.ENOENT, errno.EINVAL, errno.ENOMEM}:
            raise
