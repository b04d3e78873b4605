"""Files that exist completely or not at all, also after a power cut.

A file is written under a temporary name, synced and renamed, and then its folder is synced. Tests
replace Disk by one that fails, or at which the process dies, at any system call.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum
from pathlib import Path


class Durability(Enum):
    SYNCED = "synced"  # survives a power cut
    CACHED = "cached"  # survives the process only: for what may be lost, such as a restart count


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
    """The name under which a file is written first; after a crash it may be left over."""
    return path.with_name(f".{path.name}.tmp")


def write(disk: Disk, path: Path, data: bytes, *, durability: Durability) -> None:
    """Raise OSError unless the file certainly exists; after an error it may exist or not."""
    temporary_path = temporary(path)
    try:
        _fill(disk, temporary_path, data, durability)
        disk.rename(temporary_path, path)
    except OSError:
        with suppress(OSError):  # gives a full disk its room back
            disk.unlink(temporary_path)
        raise
    if durability is Durability.SYNCED:
        sync_folder(disk, path.parent)


def remove(disk: Disk, path: Path) -> None:
    """Raise OSError unless the file is certainly gone, also after a power cut."""
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
            rest = rest[disk.write(descriptor, rest) :]  # a nearly full disk takes only a part
        if durability is Durability.SYNCED:
            disk.sync(descriptor)
    finally:
        disk.close(descriptor)
