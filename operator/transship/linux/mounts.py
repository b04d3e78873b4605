"""mount(2), umount2(2) and the mount table; paths and deletion that do not leave a tree.

The system calls are by ctypes, since mount(8) takes 5 ms, and one mount is part of a blackout.
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
    """Mount a file system. Raises OSError."""
    done = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        _raise_errno(target)


def unmount(target: Path) -> None:
    """Unmount the topmost mount at a path, if there is one. Raises OSError."""
    if not is_mount_point(target):
        return
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW) != 0:
        _raise_errno(target)


def unmount_patiently(target: Path) -> None:
    """Unmount like `unmount`, and retry while the file system is busy.

    A reader of the memory of a killed process keeps its program open for some time, and two
    concurrent unmounts make each other fail.
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
    """Return all mount points of this process, the oldest first."""
    lines = (table or Path("/proc/self/mountinfo").read_text()).splitlines()
    return tuple(Path(_unescape(line.split(" ")[4])) for line in lines)


def _unescape(word: str) -> str:
    for escape, char in _ESCAPED.items():
        word = word.replace(escape, char)
    return word


def is_mount_point(path: Path) -> bool:
    return path.resolve() in mount_points()


def mounts_below(path: Path) -> tuple[Path, ...]:
    """Return the mount points at or below a path, the deepest first, as they can be unmounted."""
    inside = {point for point in mount_points() if point.is_relative_to(path.resolve())}
    return tuple(sorted(inside, key=lambda point: len(point.parts), reverse=True))


def remove_tree(path: Path) -> None:
    """Delete a directory. Raises Refused when something is mounted in it.

    A deletion through a mount would delete the files of the mounted file system.
    """
    if mounts := mounts_below(path):
        raise Refused(f"deleting {path}: {mounts[0]} is mounted")
    if path.exists():
        shutil.rmtree(path)


def inside(root: Path, path: str) -> Path:
    """Resolve a path as if `root` was /: symbolic links and dots cannot lead out of it."""
    todo, current, links = [*reversed(Path(path).parts)], root, 0
    while todo:
        part = todo.pop()
        if part in ("/", "."):
            current = root if part == "/" else current
        elif part == "..":
            current = current if current == root else current.parent
        elif (current / part).is_symlink():
            links += 1
            # the kernel follows as many
            if links > 40:
                raise TransshipError(f"resolving {path}: too many symbolic links")
            todo += reversed((current / part).readlink().parts)
        else:
            current = current / part
    return current
