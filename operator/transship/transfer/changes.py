"""Which files of a tree have changed since it was last looked at.

Looking costs one lstat per file and no reading. Two kinds of change leave no trace in an inode's
times, and both count as changed: a write within the clock tick of the look itself, and a store
through a shared mapping, which touches the times only once per writeback (mmap(2)).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

# CONFIG_HZ=100 ticks every 10 ms, and coarse file times are taken at a tick
TICK_NANOSECONDS = 20_000_000


@dataclass(frozen=True)
class Trace:
    """What an inode says of its own history."""

    mode: int
    owner: tuple[int, int]
    size: int
    inode: int
    links: int
    modified: int
    changed: int


@dataclass(frozen=True)
class Look:
    """A tree as it was at one moment; paths are relative to its root."""

    taken: int
    traces: Mapping[str, Trace]


@dataclass(frozen=True)
class Changes:
    """Paths to send again, those that went away, and the bytes of the former."""

    files: tuple[str, ...]
    removed: tuple[str, ...]
    bytes: int

    @property
    def any(self) -> bool:
        return bool(self.files or self.removed)


def look(root: Path, names: Iterable[str]) -> Look:
    """Take stock of the files and trees `names` below `root`; what vanishes is left out."""
    taken = time.time_ns()
    traces: dict[str, Trace] = {}
    present = [name for name in names if (root / name).exists()]
    for name in present:
        _note(traces, name, os.lstat(root / name))
    pending = [name for name in present if stat.S_ISDIR(traces[name].mode)]
    while pending:
        folder = pending.pop()
        pending += _look_into(root, folder, traces)
    return Look(taken=taken, traces=traces)


def _look_into(root: Path, folder: str, traces: dict[str, Trace]) -> list[str]:
    folders = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                _note(traces, path, found)
                if stat.S_ISDIR(found.st_mode):
                    folders.append(path)
    except FileNotFoundError:
        return []
    return folders


def _note(traces: dict[str, Trace], path: str, found: os.stat_result) -> None:
    traces[path] = Trace(
        mode=found.st_mode,
        owner=(found.st_uid, found.st_gid),
        size=found.st_size,
        inode=found.st_ino,
        links=found.st_nlink,
        modified=found.st_mtime_ns,
        changed=found.st_ctime_ns,
    )


def changes(before: Look, after: Look, *, always: Iterable[str] = ()) -> Changes:
    """Compare two looks; `always` are files in doubt for another reason (mapped ones)."""
    doubtful = before.taken - TICK_NANOSECONDS
    mapped = frozenset(always)
    files = tuple(
        path
        for path, trace in after.traces.items()
        if before.traces.get(path) != trace or trace.changed >= doubtful or path in mapped
    )
    removed = tuple(path for path in before.traces if path not in after.traces)
    size = sum(after.traces[path].size for path in files if stat.S_ISREG(after.traces[path].mode))
    return Changes(files=files, removed=removed, bytes=size)
