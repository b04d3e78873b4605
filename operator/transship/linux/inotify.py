"""Waits for changes in a directory, by inotify(7)."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_MODIFY, IN_MOVED_TO, IN_CREATE = 0x2, 0x80, 0x100
_BUFFER_BYTES = 64 << 10

_libc = ctypes.CDLL(None, use_errno=True)


class Changes:
    """Reports that something in the directory has changed, but not what."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._happened = asyncio.Event()

    def read_events(self) -> None:
        """Read the pending events."""
        os.read(self._descriptor, _BUFFER_BYTES)
        self._happened.set()

    async def wait(self) -> None:
        """Wait for a change; return at once when there was one since the last wait."""
        await self._happened.wait()
        self._happened.clear()


@contextmanager
def watching(directory: Path) -> Iterator[Changes]:
    """Watch a directory for new, changed and replaced files."""
    descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        _raise_errno(directory)
    loop = asyncio.get_running_loop()
    try:
        mask = IN_MODIFY | IN_MOVED_TO | IN_CREATE
        if _libc.inotify_add_watch(descriptor, os.fsencode(directory), mask) < 0:
            _raise_errno(directory)
        changes = Changes(descriptor)
        loop.add_reader(descriptor, changes.read_events)
        yield changes
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _raise_errno(directory: Path) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), str(directory))
