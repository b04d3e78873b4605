"""Finds the files of a tree that have changed between two snapshots.

find(1) takes the snapshots: for 20,000 files it is five times faster than Python. Its lines are
compared without being parsed. Two kinds of change do not show in an inode's times, and both count
as changed: a write within the clock tick of the snapshot, and a store through a shared mapping,
which updates the times only once per writeback (mmap(2)).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from transship.common.errors import CommandFailed

# CONFIG_HZ=100 ticks every 10 ms, and coarse file times are taken at a tick
TICK_NANOSECONDS = 20_000_000

_FORMAT = r"%C@ %T@ %#m %U %G %s %n %i %y %p\0"
_FIELDS = _FORMAT.count(" ")
_UNSEEN = b"0 0 0 0 0 0 0 0 f "
"""The start of a line for a file that is in no snapshot."""


@dataclass(frozen=True)
class FileEntry:
    """The parsed part of one line. The path is relative to the root."""

    changed: int  # nanoseconds
    size: int
    path: str

    @classmethod
    def of(cls, line: bytes) -> FileEntry:
        changed, _, _, _, _, size, _, _, kind, path = line.split(b" ", _FIELDS)
        seconds, _, fraction = changed.partition(b".")
        return cls(
            changed=int(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0")),
            size=int(size) if kind == b"f" else 0,
            path=path.decode("utf-8", "surrogateescape"),
        )


@dataclass(frozen=True)
class TreeSnapshot:
    """A tree at one moment: a line for each file. `taken` is in nanoseconds."""

    taken: int
    lines: frozenset[bytes]

    @cached_property
    def unsettled(self) -> frozenset[bytes]:
        """Lines of files that may change again within the same tick, without a trace."""
        since = self.taken - TICK_NANOSECONDS
        return frozenset(line for line in self.lines if FileEntry.of(line).changed >= since)

    def unsettled_paths(self) -> frozenset[str]:
        return frozenset(FileEntry.of(line).path for line in self.unsettled)

    @property
    def size(self) -> int:
        """The size of all regular files, in bytes."""
        return sum(FileEntry.of(line).size for line in self.lines)

    def with_sent(self, names: Iterable[str]) -> TreeSnapshot:
        """Add names that the peer may have, whether or not they are in this snapshot.

        A file that was created and removed between two snapshots is in neither, but may have been
        copied. With this it counts as removed, unless the later snapshot has it.
        """
        known = {FileEntry.of(line).path for line in self.lines}
        unseen = (name.encode("utf-8", "surrogateescape") for name in names if name not in known)
        return replace(self, lines=self.lines.union(_UNSEEN + name for name in unseen))

    def named(self, paths: Iterable[str], *, below: Iterable[str] = ()) -> Iterator[bytes]:
        """Yield the lines of files by all of their names, and of all files below some folders.

        rsync would replace a file under one of its names only: the others would keep the old file.
        """
        names = {path.encode("utf-8", "surrogateescape") for path in paths}
        if names:
            called = [line for line in self.lines if line.split(b" ", _FIELDS)[-1] in names]
            yield from called
            yield from self._linked(called)
        yield from self._below(tuple(f"{folder}/" for folder in below))

    def _linked(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines of all hard links to these files.

        A file of another file system may have the same inode number; it is sent needlessly.
        """
        numbers = {number for line in lines if (number := _number_of_linked(line)) is not None}
        if numbers:
            yield from (line for line in self.lines if _number_of_linked(line) in numbers)

    def _below(self, folders: tuple[str, ...]) -> Iterator[bytes]:
        marks = [f" {folder}".encode("utf-8", "surrogateescape") for folder in folders]
        if not marks:
            return
        for line in self.lines:
            if any(mark in line for mark in marks) and FileEntry.of(line).path.startswith(folders):
                yield line


def _number_of_linked(line: bytes) -> bytes | None:
    """Return the inode number of a file with several hard links, else None."""
    *_, links, number, kind, _ = line.split(b" ", _FIELDS)
    return number if links != b"1" and kind != b"d" else None


@dataclass(frozen=True)
class Changes:
    """Paths to send again, paths that were removed, and the bytes of the former."""

    files: tuple[str, ...]
    removed: tuple[str, ...]
    bytes: int

    @property
    def any(self) -> bool:
        return bool(self.files or self.removed)


def take_snapshot(root: Path, names: Iterable[str]) -> TreeSnapshot:
    """Take a snapshot of the files and trees `names` below `root`. Vanishing files are left out."""
    taken = time.time_ns()
    present = [name for name in names if (root / name).exists()]
    if not present:
        return TreeSnapshot(taken, frozenset())
    argv = ["find", *present, "-ignore_readdir_race", "-printf", _FORMAT]
    done = subprocess.run(argv, cwd=root, capture_output=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(argv, done.returncode, done.stderr.decode(errors="replace"))
    return TreeSnapshot(taken, frozenset(done.stdout.split(b"\0")[:-1]))


def _moved_folders(old: Iterable[bytes], new: Iterable[bytes]) -> list[str]:
    """Return folders that may have been renamed away and back: a copy meanwhile missed their files.

    That changes only the change time of a folder, unlike a change in the folder.
    """
    known = {line.split(b" ", 1)[1] for line in old}
    return [
        FileEntry.of(line).path
        for line in new
        if line.split(b" ", _FIELDS)[-2] == b"d" and line.split(b" ", 1)[1] in known
    ]


def changes(
    before: TreeSnapshot,
    after: TreeSnapshot,
    *,
    always: Iterable[str] = (),
    below: Iterable[str] = (),
) -> Changes:
    """Compare two snapshots. `always` are files that count as changed (mapped ones)."""
    old, new = before.lines - after.lines, after.lines - before.lines
    below = [*below, *_moved_folders(old, new)]
    doubtful = {*(after.lines & before.unsettled), *after.named(always, below=below)}
    changed = [FileEntry.of(line) for line in new | doubtful]
    gone = {FileEntry.of(line).path for line in old}
    return Changes(
        files=tuple(sorted(entry.path for entry in changed)),
        removed=tuple(sorted(gone - {entry.path for entry in changed})),
        bytes=sum(entry.size for entry in changed),
    )
