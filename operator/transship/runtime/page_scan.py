"""Which pages of a process CRIU would dump: the same PAGEMAP_SCAN that it does.

Pages in memory or swapped out, but for those of files, the one page of zeros, and guard pages
(which read as swapped out). Works for running and for frozen processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import struct
from collections.abc import Iterable, Iterator

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_PAGEMAP_SCAN = 0xC0606610
_FILE, _PRESENT, _SWAPPED, _ZERO, _GUARD = 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 8
_ARGUMENT = struct.Struct("=12Q")
_REGION = struct.Struct("=3Q")
_REGIONS = 4096

Range = tuple[int, int]
"""From an address to the one behind its end."""


@functools.cache
def supported() -> bool:
    """Whether this kernel has it, and tells guard pages: Linux 6.16 or newer."""
    try:
        tuple(pages(os.getpid(), [(0, PAGE_BYTES)]))
    except OSError:
        return False
    return True


def pages(pid: int, within: Iterable[Range]) -> Iterator[Range]:
    """Runs of pages. Raises OSError, also for a process that has ended."""
    regions = ctypes.create_string_buffer(_REGION.size * _REGIONS)
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in within:
            yield from _scan(fd, start, end, regions)
    finally:
        os.close(fd)


def _scan(fd: int, start: int, end: int, regions: ctypes.Array[ctypes.c_char]) -> Iterator[Range]:
    while start < end:
        asked = bytearray(
            _ARGUMENT.pack(
                *(_ARGUMENT.size, 0, start, end, 0),
                *(ctypes.addressof(regions), _REGIONS, 0),
                *(_ZERO | _FILE, _ZERO | _FILE, _PRESENT | _SWAPPED, _GUARD),
            )
        )
        count = fcntl.ioctl(fd, _PAGEMAP_SCAN, asked)
        for first, last, kind in _REGION.iter_unpack(regions.raw[: count * _REGION.size]):
            if not kind & _GUARD:
                yield first, last
        start = _ARGUMENT.unpack(asked)[4]
