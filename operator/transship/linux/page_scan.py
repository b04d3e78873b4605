"""Finds the anonymous pages of a process by PAGEMAP_SCAN, an ioctl of /proc/PID/pagemap.

Pages in memory or in swap, without the kernel's page of zeros; and guard pages, which look as if in
swap. For running and frozen processes. It does not ask for the category of file pages, of which
anonymous memory has none: the kernel would look each page up, five times slower (4 GiB: 90 ms
instead of 17 ms, on a busy machine).
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED, _ZERO, _GUARD = 1 << 3, 1 << 4, 1 << 5, 1 << 8
_ARGUMENT = struct.Struct("=12Q")
_REGION = struct.Struct("=3Q")
_REGIONS = 4096

SLICE_BYTES, SLICES = 64 << 20, 256
"""One call scans a slice, 0.3 ms: other readers of the page map wait until it ends. A range has at
most so many slices, since some programs reserve terabytes and hardly use them."""

Range = tuple[int, int]
"""Start and end address; the end is outside."""


@functools.cache
def supported() -> bool:
    """Whether this kernel has PAGEMAP_SCAN with guard pages: Linux 6.16 or newer."""
    try:
        scan(os.getpid(), [(0, PAGE_BYTES)])
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class Pages:
    """Ranges of pages: in memory or in swap, and guard pages."""

    present: tuple[Range, ...] = ()
    guards: tuple[Range, ...] = ()


def scan(pid: int, within: Iterable[Range]) -> Pages:
    """Scan anonymous ranges of a process. Raises OSError, also when the process has ended."""
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        regions = [region for start, end in within for region in _scan(fd, start, end)]
    finally:
        os.close(fd)
    return Pages(
        present=tuple((start, end) for start, end, kind in regions if not kind & _GUARD),
        guards=tuple((start, end) for start, end, kind in regions if kind & _GUARD),
    )


def _scan(fd: int, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    regions = ctypes.create_string_buffer(_REGION.size * _REGIONS)
    piece = max(SLICE_BYTES, (end - start) // SLICES)
    while start < end:
        stop = min(end, start + piece)
        argument = bytearray(
            _ARGUMENT.pack(
                *(_ARGUMENT.size, 0, start, stop, 0),
                *(ctypes.addressof(regions), _REGIONS, 0),
                *(_ZERO, _ZERO, _PRESENT | _SWAPPED, _GUARD),
            )
        )
        count = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument)
        # Linux 6.18 may return a walk_end before the end of its last region: yield no page twice
        start = _ARGUMENT.unpack(argument)[4]
        for first, last, kind in _REGION.iter_unpack(regions.raw[: count * _REGION.size]):
            if first < start:
                yield first, min(last, start), kind
