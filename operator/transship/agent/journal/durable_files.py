"""Files that are there whole or not at all, also after a power cut.

Written beside their place, synced, renamed into it, and the folder synced. Disk is the seam: tests
have one that fails, or is the last thing that happens, at any of its calls.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from pathlib import Path


class Durability(Enum):
    SYNCED = "synced"  # survives a power cut
    CACHED = "cached"  # survives the agent: for what only informs, such as the count of restarts


class Disk:
    """The system calls of a durable write; each raises OSError."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: bytes) -> int:
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def open_folder(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def temporary(path: Path) -> Path:
    """Where a file is written before it gets its name; `.*.tmp` are leftovers of a crash."""
    return path.with_name(f".{path.name}.tmp")


def write(disk: Disk, path: Path, data: bytes, *, durability: Durability) -> None:
    """Raise OSError when it is not certain that the file is there; it may be all the same."""
    beside = temporary(path)
    try:
        _fill(disk, beside, data, durability)
        disk.rename(beside, path)
    except OSError:
        with suppress(OSError):  # a full disk wants its room back
            disk.unlink(beside)
        raise
    if durability is Durability.SYNCED:
        sync_folder(disk, path.parent)


def remove(disk: Disk, path: Path) -> None:
    """Raise OSError when it is not certain that the file stays away."""
    disk.unlink(path)
    sync_folder(disk, path.parent)


def move(disk: Disk, source: Path, target: Path) -> None:
    disk.rename(source, target)
    sync_folder(disk, target.parent)
    sync_folder(disk, source.parent)


def sync_folder(disk: Disk, folder: Path) -> None:
    descriptor = disk.open_folder(folder)
    try:
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def _fill(disk: Disk, path: Path, data: bytes, durability: Durability) -> None:
    descriptor = disk.create(path)
    try:
        rest = data
        while rest:
            rest = rest[disk.write(descriptor, rest) :]  # a nearly full disk takes a part of it
        if durability is Durability.SYNCED:
            disk.sync(descriptor)
    finally:
        disk.close(descriptor)
