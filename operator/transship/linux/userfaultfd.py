"""A userfaultfd of another process, of which this side fills the missing pages (userfaultfd(2)).

The descriptor comes from CRIU, in its non-cooperative form: the kernel also tells of forks, moved,
dropped and unmapped memory, and has the process wait until such an event was read. While one is
unread nothing can be filled.
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
"""The process is gone; ENOSPC was its name before Linux 4.13."""


class EventKind(IntEnum):
    """What the kernel tells of."""

    FAULT = 0x12
    FORK = 0x13
    REMAP = 0x14
    REMOVE = 0x15
    UNMAP = 0x16


@dataclass(frozen=True, slots=True)
class Event:
    """One message.

    Its words: FAULT flags, address; FORK descriptor; REMAP from, to, length; REMOVE and UNMAP
    start, end.
    """

    kind: EventKind
    words: tuple[int, int, int]

    @property
    def address(self) -> int:
        """Of a fault: where its page begins."""
        return self.words[1] & -PAGE_BYTES

    @property
    def descriptor(self) -> int:
        """Of a fork: the child's userfaultfd, which is ours since the message was read."""
        return self.words[0] & 0xFFFFFFFF


class Filled(Enum):
    """How filling ended: all of it, or what stands at the first page that was not filled."""

    ALL = "All"
    THERE = "There"  # the page is there already
    BUSY = "Busy"  # an event is to be read first
    UNKNOWN = "Unknown"  # the range is not within one registered mapping
    GONE = "Gone"  # the process has ended
    NO_MEMORY = "NoMemory"


def event(message: bytes | memoryview) -> Event:
    """Decode a message. Raises ValueError for an unknown one."""
    kind, *words = _EVENT.unpack(message)
    return Event(EventKind(kind), (words[0], words[1], words[2]))


def copy(fd: int, *, to: int, source: int, pages: int) -> tuple[int, Filled]:
    """Fill pages from this process's memory; returns how many, and why not more. Wakes waiters."""
    asked = bytearray(_COPY_WORDS.pack(to, source, pages * PAGE_BYTES, 0, 0))
    return _fill(fd, _COPY, asked, words=_COPY_WORDS, pages=pages)


def zero(fd: int, *, to: int, pages: int) -> tuple[int, Filled]:
    """The same with zeros."""
    asked = bytearray(_ZERO_WORDS.pack(to, pages * PAGE_BYTES, 0, 0))
    return _fill(fd, _ZEROPAGE, asked, words=_ZERO_WORDS, pages=pages)


def wake(fd: int, *, start: int, pages: int) -> None:
    """Have whoever waits for these pages look again."""
    _tolerant(fd, _WAKE, bytearray(_RANGE.pack(start, pages * PAGE_BYTES)))


def ended(fd: int) -> bool:
    """Whether nobody has this memory any more.

    Known by an operation that does nothing to private memory (it is for shared pages, Linux 5.13).
    """
    try:
        fcntl.ioctl(fd, _CONTINUE, bytearray(_ZERO_WORDS.pack(_SOMEWHERE, PAGE_BYTES, 0, 0)))
    except OSError as e:
        return e.errno in _ENDED
    return False


def _fill(
    fd: int, code: int, asked: bytearray, *, words: struct.Struct, pages: int
) -> tuple[int, Filled]:
    try:
        fcntl.ioctl(fd, code, asked)
    except OSError as e:
        done: int = words.unpack(asked)[-1]
        return max(done, 0) // PAGE_BYTES, _why(e, done)
    return pages, Filled.ALL


def _why(error: OSError, done: int) -> Filled:
    """A part that was filled is reported as EAGAIN: what is in the way shows at the next try."""
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


def _tolerant(fd: int, code: int, asked: bytearray) -> None:
    try:
        fcntl.ioctl(fd, code, asked)
    except OSError as e:
        if e.errno not in _ENDED | {errno.ENOENT, errno.EINVAL, errno.ENOMEM}:
            raise
