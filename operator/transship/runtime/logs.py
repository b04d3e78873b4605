"""Reading a container's log, as conmon writes it: the format of Kubernetes' CRI.

Each line is `2026-01-31T12:00:00.123456789+00:00 stdout F text`; P instead of F marks a piece of a
line that was longer than conmon's buffer, or had no end yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from transship.runtime import inotify


@dataclass(frozen=True)
class LogLine:
    """partial: the next line of the same stream goes on where this one stops."""

    time: str  # RFC 3339, nanoseconds
    stream: str
    partial: bool
    text: str

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.time)


def parse(line: bytes) -> LogLine | None:
    """None for what is not a whole line of a log (the agent may read while conmon writes)."""
    words = line.decode(errors="replace").rstrip("\n").split(" ", 3)
    if len(words) < 4 or words[2] not in ("F", "P"):
        return None
    return LogLine(words[0], words[1], words[2] == "P", words[3])


def read(
    path: Path, *, tail: int | None = None, since: datetime | None = None
) -> Iterator[LogLine]:
    """What the log has now: the last `tail` lines, of those not older than `since`."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        yield from deque(_wanted(file, since=since), maxlen=tail)


def _wanted(file: BinaryIO, *, since: datetime | None) -> Iterator[LogLine]:
    for raw in file:
        line = parse(raw)
        if line is not None and (since is None or line.moment >= since):
            yield line


async def follow(
    path: Path,
    *,
    ended: asyncio.Event,
    tail: int | None = None,
    since: datetime | None = None,
) -> AsyncIterator[LogLine]:
    """What the log has, then what comes, until `ended` is set and everything is read."""
    reader = _Reader(path)
    with inotify.watching(path.parent) as changes:
        for line in deque(reader.new_lines(), maxlen=tail):
            if since is None or line.moment >= since:
                yield line
        while True:
            last = ended.is_set()
            for line in reader.new_lines():
                yield line
            if last:
                return
            await _first(changes.wait(), ended.wait())


async def _first(*conditions: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(condition) for condition in conditions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class _Reader:
    """Reads whole lines of a file that grows, and that conmon replaces when it gets too large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = 0
        self._position = 0

    def new_lines(self) -> list[LogLine]:
        try:
            with self._path.open("rb") as file:
                return self._from(file)
        except FileNotFoundError:
            return []

    def _from(self, file: BinaryIO) -> list[LogLine]:
        inode = os.fstat(file.fileno()).st_ino
        if inode != self._inode:
            self._inode, self._position = inode, 0
        file.seek(self._position)
        found = []
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            self._position += len(raw)
            if (line := parse(raw)) is not None:
                found.append(line)
        return found
