"""mount(2), umount2(2) and the table of mounts; deleting trees without crossing into a mount.

System calls by ctypes, since mount(8) costs 5 ms and one of these stands in the handover.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import time
from pathlib import Path

from transship.common.errors import Refused, TransshipError

MS_NOSUID, MS_NODEV = 2, 4
UMOUNT_NOFOLLOW = 8
BUSY_SECONDS, BUSY_POLL_SECONDS = 5.0, 0.05
_ESCAPED = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, *, kind: str, flags: int = 0, options: str = "") -> None:
    """Raise OSError with the kernel's errno."""
    done = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        _raise_errno(target)


def unmount(target: Path) -> None:
    """Take off the topmost mount at a path, if there is one; never what lies below it."""
    if not is_mount_point(target):
        return
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW) != 0:
        _raise_errno(target)


def unmount_patiently(target: Path) -> None:
    """The same, for a file system that nobody uses any more.

    Whoever reads the memory of a process that was killed keeps its program open until it is done;
    and two unmounts at once find it busy with each other.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return unmount(target)
        except OSError as e:
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(BUSY_POLL_SECONDS)


def _raise_errno(target: Path) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), str(target))


def mount_points(table: str | None = None) -> tuple[Path, ...]:
    """Every mount point this process sees, oldest first."""
    lines = (table or Path("/proc/self/mountinfo").read_text()).splitlines()
    return tuple(Path(_unescape(line.split(" ")[4])) for line in lines)


def _unescape(word: str) -> str:
    for escape, char in _ESCAPED.items():
        word = word.replace(escape, char)
    return word


def is_mount_point(path: Path) -> bool:
    return path.resolve() in mount_points()


def mounts_below(path: Path) -> tuple[Path, ...]:
    """Mount points at or below a path, deepest first: the order in which they can be taken off."""
    inside = {point for point in mount_points() if point.is_relative_to(path.resolve())}
    return tuple(sorted(inside, key=lambda point: len(point.parts), reverse=True))


def remove_tree(path: Path) -> None:
    """Delete a directory; refused when anything is mounted in it.

    CRIU leaves mounts behind that reach into live file systems: deleting through one deletes there.
    """
    if mounts := mounts_below(path):
        raise Refused(f"deleting {path}: {mounts[0]} is mounted")
    if path.exists():
        shutil.rmtree(path)


def inside(root: Path, path: str) -> Path:
    """Where a path of the container lies on the node; symbolic links cannot lead out of root."""
    todo, current, links = [*reversed(Path(path).parts)], root, 0
    while todo:
        part = todo.pop()
        if part in ("/", "."):
            current = root if part == "/" else current
        elif part == "..":
            current = current if current == root else current.parent
        elif (current / part).is_symlink():
            links += 1
            if links > 40:  # as many as the kernel follows
                raise TransshipError(f"resolving {path}: too many symbolic links")
            todo += reversed((current / part).readlink().parts)
        else:
            current = current / part
    return current
