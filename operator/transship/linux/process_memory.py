"""The private pages of other processes: finding and reading them.

Private pages are anonymous pages and private copies of file pages, in memory or in swap. A running
process may change its mappings at any time. Pages that cannot be read any more are omitted, and the
reader returns what it has read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from transship.linux.pages import PAGE_BYTES, PageRange
from transship.linux.processes import Process

BATCH_PAGES = 256
"""1 MiB: a larger buffer does not fit into the CPU's cache."""

_KERNEL_MAPPINGS = ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]", "[uprobes]")
_SCAN_PAGES = 1 << 18
"""2 MiB of /proc/PID/pagemap at a time."""

# proc_pid_pagemap(5), the top byte of an entry: 0x80 present, 0x40 swapped, 0x20 file or shared
_PRIVATE = bytes(1 if (top & 0xC0) and not (top & 0x20) else 0 for top in range(256))
_RUNS = re.compile(rb"\x01+")


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
)


@dataclass(frozen=True, slots=True, order=True)
class Mapping:
    """A private mapping. All pages of an anonymous one are private pages."""

    start: int
    end: int
    anonymous: bool = field(default=False, compare=False)
    executable: bool = field(default=True, compare=False)


def mappings(maps: str) -> tuple[Mapping, ...]:
    """Return the private mappings in a /proc/PID/maps, but none of the kernel or of devices."""
    found = []
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        name = fields[5] if len(fields) == 6 else ""
        if fields[1][3] != "p" or name in _KERNEL_MAPPINGS:
            continue
        if name.startswith("/dev/") and not name.startswith(("/dev/shm/", "/dev/zero")):  # noqa: S108
            continue
        start, end = (int(part, 16) for part in fields[0].split("-"))
        anonymous, executable = fields[4] == "0", fields[1][2] == "x"
        found.append(Mapping(start, end, anonymous=anonymous, executable=executable))
    return tuple(found)


def mappings_of(process: Process) -> tuple[Mapping, ...]:
    """Return the private mappings of a process; none when it has ended."""
    try:
        maps = Path(f"/proc/{process.outside}/maps").read_text(errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return mappings(maps)


def data_of(process: Process) -> tuple[Mapping, ...]:
    """Return the mappings without code: a tracer may insert instructions into the others."""
    return tuple(one for one in mappings_of(process) if not one.executable)


Select = Callable[[bytes], bytes]
"""From entries of a pagemap (proc_pid_pagemap(5)) to a byte per page, 1 for a selected one."""


def private_pages(
    process: Process, within: Iterable[Mapping] | None = None
) -> tuple[PageRange, ...]:
    """Return the private pages of a process now, in all mappings or those `within`."""
    return marked_pages(process, private_marks, within)


def private_marks(entries: bytes) -> bytes:
    """Select the private pages."""
    # the top byte of each little-endian entry
    return entries[7::8].translate(_PRIVATE)


def marked_pages(
    process: Process, select: Select, within: Iterable[Mapping] | None = None
) -> tuple[PageRange, ...]:
    """Return the pages of a process that `select` marks."""
    scanned = mappings_of(process) if within is None else within
    try:
        fd = os.open(f"/proc/{process.outside}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return ()
    marked: list[PageRange] = []
    try:
        for mapping in scanned:
            marked += _marked(fd, process.inside, mapping, select)
    finally:
        os.close(fd)
    return tuple(marked)


def _marked(fd: int, pid: int, mapping: Mapping, select: Select) -> list[PageRange]:
    found: list[PageRange] = []
    page, end = mapping.start // PAGE_BYTES, mapping.end // PAGE_BYTES
    while page < end:
        marks = select(os.pread(fd, 8 * min(_SCAN_PAGES, end - page), 8 * page))
        for run in _RUNS.finditer(marks):
            address = (page + run.start()) * PAGE_BYTES
            found.append(PageRange(pid, address, run.end() - run.start()))
        if not marks:
            break
        page += len(marks)
    return found


class MemoryReader:
    """Reads the memory of one process. Reuse the buffers: new ones are ten times slower."""

    def __init__(self, process: Process) -> None:
        self._pid = process.outside
        self._memory = os.open(f"/proc/{process.outside}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, ranges: Sequence[PageRange], into: bytearray) -> tuple[PageRange, ...]:
        """Read the pages into the buffer, one after the other; returns those that could be read.

        process_vm_readv(2) reads all at once, but stops at a page without read permission. Then
        /proc/PID/mem is read instead, which is slower and ignores permissions.
        """
        view = memoryview(into)
        if self._read_at_once(ranges, into):
            return tuple(ranges)
        return tuple(self._read_each(ranges, view))

    def _read_at_once(self, ranges: Sequence[PageRange], into: bytearray) -> bool:
        size = sum(one.bytes for one in ranges)
        anchor = (ctypes.c_char * size).from_buffer(into)
        local = _IoVec(ctypes.addressof(anchor), size)
        remote = (_IoVec * len(ranges))(*(_IoVec(one.address, one.bytes) for one in ranges))
        done = _libc.process_vm_readv(
            self._pid, ctypes.byref(local), 1, ctypes.byref(remote), len(ranges), 0
        )
        return bool(done == size)

    def _read_each(self, ranges: Sequence[PageRange], view: memoryview) -> Iterable[PageRange]:
        """Read range by range, and page by page in a range with a hole."""
        at = 0
        for one in ranges:
            if self._pread(one, view[at : at + one.bytes]):
                at += one.bytes
                yield one
                continue
            for number in range(one.pages):
                page = PageRange(one.pid, one.address + number * PAGE_BYTES, 1)
                if self._pread(page, view[at : at + PAGE_BYTES]):
                    at += PAGE_BYTES
                    yield page

    def _pread(self, pages: PageRange, view: memoryview) -> bool:
        try:
            return os.preadv(self._memory, [view], pages.address) == pages.bytes
        except OSError as e:
            if e.errno in {errno.EIO, errno.EFAULT, errno.ESRCH}:
                return False
            raise

    def close(self) -> None:
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
