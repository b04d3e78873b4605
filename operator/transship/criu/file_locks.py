"""Finds the POSIX locks that a restore has lost, from the dump's images.

CRIU sets the locks of a process before it maps its files. To map a file it opens the file once more
and closes it, and when a process closes any descriptor of a file, the kernel drops all its POSIX
locks on that file (fcntl(2)). So a lock on a file that is also mapped is lost at a restore (CRIU
4.2.1), and SQLite loses acknowledged writes, because two writers run at once. Locks of open file
descriptions (OFD, flock) are not affected.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import TransshipError
from transship.criu.rpc import number_in, parse
from transship.linux.processes import Process

IMAGE_NAME = "filelocks.img"
COMMON_MAGIC = 0x54564319
FILE_LOCKS_MAGIC = 0x54323616
POSIX = 1

_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
# struct flock of 64-bit programs: type, whence, start, length, pid
_FLOCK = struct.Struct("=hh4xqqi4x")
_KINDS = ("READ", "WRITE")  # F_RDLCK, F_WRLCK

# fields of file_lock_entry
_FLAG, _TYPE, _PID, _DESCRIPTOR, _START, _SIZE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class FileLock:
    """A POSIX lock of a process, by its pid in the container.

    `kind` is 0 for a read lock and 1 for a write lock; `size` is in bytes, 0 up to the end of file.
    """

    process: int
    descriptor: int
    kind: int
    start: int
    size: int

    @property
    def flock(self) -> bytes:
        """The struct flock for fcntl(F_SETLK)."""
        return _FLOCK.pack(self.kind, 0, self.start, self.size, 0)

    @property
    def described(self) -> tuple[str, ...]:
        """The lock as fdinfo shows it: type, first and last byte."""
        last = str(self.start + self.size - 1) if self.size else "EOF"
        return (_KINDS[self.kind], str(self.start), last)


def read(images: Path) -> tuple[FileLock, ...]:
    """Read the POSIX locks of a dump. Raises TransshipError for a malformed image."""
    try:
        data = (images / IMAGE_NAME).read_bytes()
    except FileNotFoundError:
        return ()
    try:
        return tuple(_posix(data))
    except (ValueError, IndexError, struct.error) as e:
        raise TransshipError("reading the file locks of a dump: malformed image") from e


def _posix(image: bytes) -> Iterator[FileLock]:
    if _HEADER.unpack_from(image) != (COMMON_MAGIC, FILE_LOCKS_MAGIC):
        raise ValueError(image[: _HEADER.size])
    at = _HEADER.size
    while at < len(image):
        (size,) = _LENGTH.unpack_from(image, at)
        at += _LENGTH.size
        entry = parse(image[at : at + size])
        at += size
        if number_in(entry, _FLAG) == POSIX:
            yield FileLock(
                process=number_in(entry, _PID),
                descriptor=number_in(entry, _DESCRIPTOR),
                kind=number_in(entry, _TYPE),
                start=number_in(entry, _START),
                size=number_in(entry, _SIZE),
            )


def lost(
    locks: Iterable[FileLock], processes: Iterable[Process]
) -> tuple[tuple[int, FileLock], ...]:
    """Return the locks that the restored processes lack, with their owners' pids on the node."""
    pids = {process.inside: process.outside for process in processes}
    return tuple(
        (pids[lock.process], lock)
        for lock in locks
        if lock.process in pids and lock.described not in _held(pids[lock.process], lock.descriptor)
    )


def _held(pid: int, descriptor: int) -> set[tuple[str, ...]]:
    # the process may have ended
    with contextlib.suppress(OSError):
        return held(Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text())
    return set()


def held(fdinfo: str) -> set[tuple[str, ...]]:
    """Parse the POSIX locks in a /proc/PID/fdinfo/N (proc(5)), like FileLock.described."""
    locks: set[tuple[str, ...]] = set()
    for line in fdinfo.splitlines():
        if line.startswith("lock:"):
            # lock: NUMBER: POSIX ADVISORY READ PID DEVICE FIRST LAST
            fields = line.split()
            if fields[2] == "POSIX":
                locks.add((fields[4], fields[-2], fields[-1]))
    return locks
