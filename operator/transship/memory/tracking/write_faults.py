"""The kernel's record of written pages: userfaultfd in WP_ASYNC mode, and PAGEMAP_SCAN.

The userfaultfd must belong to the process itself. An injected system call creates it there, it is
fetched by pidfd_getfd, and closed in the process. From then on the kernel records the first write
to each protected page without stopping the writer. It needs Linux 6.7. Closing the userfaultfd ends
the record and the protection.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

from transship.linux import ptrace
from transship.linux.pages import PAGE_BYTES, PageRange
from transship.linux.process_memory import Mapping
from transship.linux.processes import Process

_SYS_CLOSE, _SYS_USERFAULTFD, _SYS_PIDFD_GETFD = 3, 323, 438
_USER_MODE_ONLY = 1  # needs no privilege in the container; the kernel's writes are recorded too

_UFFD_API_VERSION = 0xAA
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_REGISTER_WRITE_PROTECT = 2
_FEATURE_WP_UNPOPULATED = 1 << 13
_FEATURE_WP_ASYNC = 1 << 15

_PAGEMAP_SCAN = 0xC0606610
_SCAN_PROTECT = 1
_SCAN_CHECK_ASYNC = 2
_PAGE_WRITTEN = 1 << 1
_PAGE_FILE = 1 << 2
_PAGE_THERE = 1 << 3 | 1 << 4
"""Present or swapped. Without it, protecting marks each page that was never touched, and such a
page reads as swapped out from then on, to CRIU too (measured: 90,000 pages of unused stacks)."""

_REGIONS = 4096
_SLICE_BYTES, _SLICES = 64 << 20, 256
"""Scanned by one call: calls of the process that map memory, and CRIU's, wait for its end. There
are at most so many slices, because some programs reserve terabytes and hardly use them."""
_SCAN = struct.Struct("=12Q")
_API = struct.Struct("=3Q")
_REGISTER = struct.Struct("=4Q")

_libc = ctypes.CDLL(None, use_errno=True)


class _Region(ctypes.Structure):
    _fields_ = (
        ("start", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("categories", ctypes.c_uint64),
    )


class NotTracked(Exception):
    """The kernel does not record writes to this mapping."""


class WriteFaults:
    """The record of one process. `fd` is its userfaultfd."""

    def __init__(self, process: Process) -> None:
        """Raises OSError or TransshipError if the userfaultfd cannot be created."""
        self._process = process
        self.fd = _userfaultfd_of(process.outside)
        self._regions = (_Region * _REGIONS)()
        try:
            _enable(self.fd)
        except BaseException:
            os.close(self.fd)
            raise

    def register(self, mapping: Mapping) -> None:
        """Record writes to a mapping. Raises NotTracked if it cannot be registered."""
        size = mapping.end - mapping.start
        asked = bytearray(_REGISTER.pack(mapping.start, size, _REGISTER_WRITE_PROTECT, 0))
        try:
            fcntl.ioctl(self.fd, _UFFDIO_REGISTER, asked)
        except OSError as e:
            raise NotTracked(f"{mapping}: {e}") from e

    def take_written(self, mapping: Mapping) -> list[PageRange]:
        """Return the private pages written since the last take, and protect them again."""
        return self._scan(mapping, _SCAN_PROTECT | _SCAN_CHECK_ASYNC, unless=_unless(mapping))

    def peek_written(self, mapping: Mapping) -> list[PageRange]:
        """Return the private pages written since the last take."""
        return self._scan(mapping, _SCAN_CHECK_ASYNC, unless=_unless(mapping))

    def peek_all_written(self, mapping: Mapping) -> list[PageRange]:
        """Return all pages written since the last take, also those of files."""
        return self._scan(mapping, _SCAN_CHECK_ASYNC, unless=0)

    def _scan(self, mapping: Mapping, flags: int, *, unless: int) -> list[PageRange]:
        # opened anew each time: the descriptor belongs to the address space at its opening
        pagemap = os.open(f"/proc/{self._process.outside}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self._scan_all(pagemap, mapping, flags, unless)
        except OSError as e:
            if e.errno == errno.EPERM:
                raise NotTracked(f"{mapping} is not registered") from e
            raise
        finally:
            os.close(pagemap)

    def _scan_all(self, pagemap: int, mapping: Mapping, flags: int, unless: int) -> list[PageRange]:
        written: list[PageRange] = []
        start = mapping.start
        piece = max(_SLICE_BYTES, (mapping.end - start) // _SLICES)
        while start < mapping.end:
            stop = min(mapping.end, start + piece)
            asked = bytearray(
                _SCAN.pack(
                    *(_SCAN.size, flags, start, stop, 0),
                    *(ctypes.addressof(self._regions), _REGIONS, 0),
                    *(unless, _PAGE_WRITTEN | unless, _PAGE_THERE, _PAGE_WRITTEN),
                )
            )
            count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, asked)
            for region in self._regions[:count]:
                pages = (region.end - region.start) // PAGE_BYTES
                written.append(PageRange(self._process.inside, region.start, pages))
            start = _SCAN.unpack(asked)[4]  # where the walk has ended
        return written

    def close(self) -> None:
        """End the record: the kernel removes the protection of all pages."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _unless(mapping: Mapping) -> int:
    """The category of pages to leave out.

    It is not used for anonymous memory: to know it, the kernel looks up each page, which makes the
    scan five times slower.
    """
    return 0 if mapping.anonymous else _PAGE_FILE


def supported() -> bool:
    """Whether this kernel supports userfaultfd with WP_ASYNC, and PAGEMAP_SCAN."""
    if platform.machine() != "x86_64":
        return False
    fd = _libc.syscall(_SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY)
    if fd < 0:
        return False
    try:
        _enable(fd)
        return _can_scan()
    except OSError:
        return False
    finally:
        os.close(fd)


def _can_scan() -> bool:
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        region = _Region()
        where = ctypes.addressof(region)
        asked = _SCAN.pack(
            _SCAN.size, 0, 0, PAGE_BYTES, 0, where, 1, 0, 0, _PAGE_WRITTEN, 0, _PAGE_WRITTEN
        )
        fcntl.ioctl(pagemap, _PAGEMAP_SCAN, bytearray(asked))
    finally:
        os.close(pagemap)
    return True


def _enable(fd: int) -> None:
    features = _FEATURE_WP_UNPOPULATED | _FEATURE_WP_ASYNC
    fcntl.ioctl(fd, _UFFDIO_API, bytearray(_API.pack(_UFFD_API_VERSION, features, 0)))


def _userfaultfd_of(pid: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return ptrace.in_process(pid, lambda tracee: _take_descriptor(tracee, pidfd))
    finally:
        os.close(pidfd)


def _take_descriptor(tracee: ptrace.Tracee, pidfd: int) -> int:
    flags = os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY
    theirs = tracee.syscall(_SYS_USERFAULTFD, flags)
    try:
        ours = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, theirs, 0))
        if ours < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        tracee.syscall(_SYS_CLOSE, theirs)
    return ours
