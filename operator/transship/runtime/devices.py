"""A directory with what runc puts into a container's /dev.

CRIU runs tar, 7 ms inside the freeze, to save the tmpfs that runc mounts on /dev. When the dump
says `external mnt[/dev]:dev`, the restore can mount this directory there instead.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9),
    "tty": (5, 0),
}  # fmt: skip
LINKS = {
    "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2", "core": "/proc/kcore", "ptmx": "pts/ptmx",
}  # fmt: skip
DIRECTORIES = ("pts", "shm", "mqueue")
CONSOLE = "console"


def make(path: Path) -> None:
    """Make what is missing."""
    path.mkdir(parents=True, exist_ok=True)
    for name in DIRECTORIES:
        (path / name).mkdir(exist_ok=True)
    for name, (major, minor) in NODES.items():
        if not (path / name).exists():
            os.mknod(path / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            (path / name).chmod(0o666)  # the umask took some
    for name, target in LINKS.items():
        if not (path / name).is_symlink():
            (path / name).symlink_to(target)
    (path / CONSOLE).touch()


def untouched(path: Path) -> bool:
    """Whether a container's /dev has nothing of its own (such as /dev/log), which would be lost."""
    known = {*NODES, *LINKS, *DIRECTORIES, CONSOLE}
    return all(entry.name in known for entry in path.iterdir())
