"""Reading a container's log, as conmon writes it: the format of Kubernetes' CRI.

Each line is `2026-01-31T12:00:00.123456789+00:00 stdout F text`; P instead of F marks a piece of a
line that was longer than conmon's buffer, or had no end yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from transship.linux import inotify

BLOCK_BYTES = 256 << 10
BATCH_LINES = 256
"""What is in memory of a log at a time; a line is no longer than conmon's buffer, some KiB."""


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
    """What the log has now: the last `tail` lines, of those not older than `since`. Blocks."""
    wanted = partial(_not_older, since=since)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if tail is not None:
            file.seek(_start_of_last(tail, _backwards(file), wanted=wanted))
        # no more than `tail`: conmon may have written on since the start was found
        yield from itertools.islice(filter(wanted, _parsed(file)), tail)


async def in_batches(lines: Iterator[LogLine]) -> AsyncGenerator[tuple[LogLine, ...], None]:
    """Read on in a thread, a few lines at a time: a log may be as large as conmon lets it."""
    while batch := await asyncio.to_thread(_batch, lines):
        yield batch


def _batch(lines: Iterator[LogLine]) -> tuple[LogLine, ...]:
    return tuple(itertools.islice(lines, BATCH_LINES))


def _not_older(line: LogLine, *, since: datetime | None) -> bool:
    return since is None or line.moment >= since


def _parsed(raws: Iterable[bytes]) -> Iterator[LogLine]:
    return (line for raw in raws if (line := parse(raw)) is not None)


def _backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Each line with where it starts, the last one first.

    The first of them is what follows the last newline: a line without its end, or nothing.
    """
    position, end_of_line = file.seek(0, os.SEEK_END), b""
    while position > 0:
        size = min(position, BLOCK_BYTES)
        position -= size
        file.seek(position)
        block = file.read(size) + end_of_line
        end_of_line, *lines = block.split(b"\n")
        start = position + len(block) + 1
        for line in reversed(lines):
            start -= len(line) + 1
            yield start, line
    yield 0, end_of_line


def _start_of_last(
    number: int, backwards: Iterator[tuple[int, bytes]], *, wanted: Callable[[LogLine], bool]
) -> int:
    """Where the last so many wanted lines start: at 0 where there are not as many."""
    starts = (
        start for start, raw in backwards if (line := parse(raw)) is not None and wanted(line)
    )
    return next(itertools.islice(starts, max(number - 1, 0), None), 0)


async def follow(
    path: Path,
    *,
    ended: asyncio.Event,
    tail: int | None = None,
    since: datetime | None = None,
) -> AsyncGenerator[tuple[LogLine, ...], None]:
    """What the log has, then what comes, until `ended` is set and everything is read."""
    with contextlib.closing(_Reader(path)) as reader, inotify.watching(path.parent) as changes:
        if tail is not None:
            await asyncio.to_thread(reader.skip_to_last, tail)
        while lines := await asyncio.to_thread(reader.next_lines):
            if wanted := tuple(line for line in lines if _not_older(line, since=since)):
                yield wanted
        while True:
            last = ended.is_set()
            while lines := await asyncio.to_thread(reader.next_lines):
                yield lines
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
        self._file: BinaryIO | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def skip_to_last(self, number: int) -> None:
        """Leave out what is there now, but for so many whole lines."""
        self._open()
        if self._file is None:
            return
        backwards = _backwards(self._file)
        unended, _ = next(backwards)
        start = _start_of_last(number, backwards, wanted=lambda _: True)
        self._file.seek(start if number > 0 else unended)

    def next_lines(self) -> tuple[LogLine, ...]:
        """A few of those not read yet; none when all are read."""
        replaced = self._is_replaced()  # looked up first: nobody writes to the old file then
        lines = _batch(_parsed(self._whole_lines()))
        if not lines and replaced:
            self._open()
            lines = _batch(_parsed(self._whole_lines()))
        return lines

    def _is_replaced(self) -> bool:
        if self._file is None:
            return True
        with contextlib.suppress(FileNotFoundError):
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        return False

    def _open(self) -> None:
        self.close()
        self._file = None
        with contextlib.suppress(FileNotFoundError):
            self._file = self._path.open("rb")

    def _whole_lines(self) -> Iterator[bytes]:
        while self._file is not None:
            raw = self._file.readline()
            if not raw.endswith(b"\n"):
                self._file.seek(-len(raw), os.SEEK_CUR)
                return
            yield raw
