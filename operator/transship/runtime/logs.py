"""Reads and follows a container's log, which conmon writes in the format of Kubernetes' CRI.

A line is `2026-01-31T12:00:00.123456789+00:00 stdout F text`. P instead of F marks a part of a line
that was longer than conmon's buffer, or had no newline yet.
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
"""The part of a log that is in memory; a line is no longer than conmon's buffer, some KiB."""


@dataclass(frozen=True)
class LogLine:
    """One line; if it is `partial`, the next line of the same stream continues it."""

    time: str
    """RFC 3339 with nanoseconds."""
    stream: str
    partial: bool
    text: str

    @property
    def moment(self) -> datetime:
        return datetime.fromisoformat(self.time)


def parse(line: bytes) -> LogLine | None:
    """Parse a line; None for an incomplete one, which conmon may be writing."""
    words = line.decode(errors="replace").rstrip("\n").split(" ", 3)
    if len(words) < 4 or words[2] not in ("F", "P"):
        return None
    return LogLine(words[0], words[1], words[2] == "P", words[3])


def read(
    path: Path, *, tail: int | None = None, since: datetime | None = None
) -> Iterator[LogLine]:
    """Yield the last `tail` of the lines that are not older than `since`. Blocking."""
    wanted = partial(_not_older, since=since)
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        if tail is not None:
            file.seek(_start_of_last(tail, _backwards(file), wanted=wanted))
        # conmon may have written more lines since the start was found
        yield from itertools.islice(filter(wanted, _parsed(file)), tail)


async def in_batches(lines: Iterator[LogLine]) -> AsyncGenerator[tuple[LogLine, ...], None]:
    """Read lines in a thread, some at a time, since a log may have LOG_BYTES of conmon."""
    while batch := await asyncio.to_thread(_batch, lines):
        yield batch


def _batch(lines: Iterator[LogLine]) -> tuple[LogLine, ...]:
    return tuple(itertools.islice(lines, BATCH_LINES))


def _not_older(line: LogLine, *, since: datetime | None) -> bool:
    return since is None or line.moment >= since


def _parsed(raws: Iterable[bytes]) -> Iterator[LogLine]:
    return (line for raw in raws if (line := parse(raw)) is not None)


def _backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its offset, the last one first.

    The first is what follows the last newline: an incomplete line, or nothing.
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
    """Return the offset of the last `number` wanted lines; 0 when there are fewer."""
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
    """Yield the log so far and then new lines, until `ended` is set and all is read."""
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
    """Reads complete lines of a log that grows, and that conmon replaces when it is too large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def skip_to_last(self, number: int) -> None:
        """Skip all but the last `number` complete lines."""
        self._open()
        if self._file is None:
            return
        backwards = _backwards(self._file)
        unended, _ = next(backwards)
        start = _start_of_last(number, backwards, wanted=lambda _: True)
        self._file.seek(start if number > 0 else unended)

    def next_lines(self) -> tuple[LogLine, ...]:
        """Return some lines that were not read yet; none when all were."""
        # checked first: conmon writes no more to a file that is replaced
        replaced = self._is_replaced()
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
