"""Follows the writes of processes by the kernel's record, where there is one; else by digests.

Whatever has a doubtful history counts as changed: a mapping that is new, grown or not to be
registered, a process that was forked or has called exec. A fork needs no look at the parent: the
child has no record and is followed as a new process. What neither this nor soft-dirty can see is a
device that writes to pages which were pinned before the protection (direct I/O in flight).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from loguru import logger

from transship.common.errors import TransshipError
from transship.linux.pages import PageRange, joined, total
from transship.linux.process_memory import Mapping, data_of, mappings_of, private_pages
from transship.linux.processes import Process
from transship.memory.tracking import soft_dirty, write_faults
from transship.memory.tracking.digest_tracker import DigestTracker
from transship.memory.tracking.soft_dirty import Pause, SoftDirtyTracker
from transship.memory.tracking.tracker import Tracker
from transship.memory.tracking.write_faults import NotTracked, WriteFaults


@dataclass
class _TrackedProcess:
    """A process with its record, and the address space that is known to be in it."""

    faults: WriteFaults
    covered: tuple[Mapping, ...] = field(default=())


class WriteTracker:
    """The Tracker that costs a millisecond for 256 MiB."""

    def __init__(self) -> None:
        self._tracked: dict[Process, _TrackedProcess] = {}
        self._digests = DigestTracker()

    def candidates(self, process: Process) -> tuple[PageRange, ...]:
        tracked = self._tracked.get(process)
        if tracked is not None:
            with contextlib.suppress(OSError):
                return self._take_written(process, tracked)
            self._untrack(process)  # it has called exec, or has ended
        tracked = self._track(process)
        if tracked is None:
            return self._digests.candidates(process)
        try:
            return self._take_written(process, tracked)
        except OSError:
            self._untrack(process)
            return self._digests.candidates(process)

    def final_candidates(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> tuple[PageRange, ...]:
        tracked = self._tracked.get(process)
        if tracked is None:
            return self._digests.final_candidates(process, ranges)
        found: list[PageRange] = []
        doubtful: list[Mapping] = []
        for one in mappings_of(process):
            try:
                found += _peek_all_written(tracked, one)
            except NotTracked:
                doubtful.append(one)
        return joined([*found, *within(ranges, doubtful)])

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        tracked = self._tracked.get(process)
        if tracked is None:
            return self._digests.candidates_during_dump(process)
        found: list[PageRange] = []
        for one in data_of(process):
            with contextlib.suppress(NotTracked):
                found += _peek_written(tracked, one)
        return joined(found)

    def count_changed(self, process: Process) -> int | None:
        tracked = self._tracked.get(process)
        if tracked is None:
            return None
        found = 0
        doubtful: list[Mapping] = []
        try:
            for one in mappings_of(process):
                try:
                    found += total(_peek_written(tracked, one))
                except NotTracked:
                    doubtful.append(one)
        except OSError:  # it has called exec, or has ended
            return None
        return found + total(private_pages(process, doubtful))

    def differing(self, ranges: Sequence[PageRange], data: bytearray) -> bytes | None:
        if any(process.inside == ranges[0].pid for process in self._tracked):
            return None
        return self._digests.differing(ranges, data)

    def close(self) -> None:
        """Let all processes go: where the move was given up, they run on unprotected."""
        for process in list(self._tracked):
            self._untrack(process)
        self._digests.close()

    def _track(self, process: Process) -> _TrackedProcess | None:
        try:
            faults = WriteFaults(process)
        except (OSError, TransshipError) as e:
            logger.bind(pid=process.outside).debug("writes cannot be followed: {}", e)
            return None
        tracked = self._tracked[process] = _TrackedProcess(faults)
        self._digests.forget(process.inside)  # they will not be kept up to date
        return tracked

    def _untrack(self, process: Process) -> None:
        self._tracked.pop(process).faults.close()

    def _take_written(self, process: Process, tracked: _TrackedProcess) -> tuple[PageRange, ...]:
        found: list[PageRange] = []
        covered: list[Mapping] = []
        doubtful: list[Mapping] = []
        for one in mappings_of(process):
            try:
                if contains(tracked.covered, one):
                    found += _take_or_register(process, tracked.faults, one)
                else:
                    found += _register(process, tracked.faults, one)
                covered.append(one)
            except NotTracked:
                doubtful.append(one)
        tracked.covered = merged(covered)
        return joined([*found, *private_pages(process, doubtful)])


def _take_or_register(
    process: Process, faults: WriteFaults, mapping: Mapping
) -> Iterable[PageRange]:
    try:
        return faults.take_written(mapping)
    except NotTracked:  # another mapping lies in its place
        return _register(process, faults, mapping)


def _register(process: Process, faults: WriteFaults, mapping: Mapping) -> Iterable[PageRange]:
    """Begin to follow a mapping: all of its pages count as changed."""
    faults.register(mapping)
    faults.take_written(mapping)
    return private_pages(process, [mapping])


def _peek_all_written(tracked: _TrackedProcess, mapping: Mapping) -> list[PageRange]:
    if not contains(tracked.covered, mapping):
        raise NotTracked
    return tracked.faults.peek_all_written(mapping)


def _peek_written(tracked: _TrackedProcess, mapping: Mapping) -> list[PageRange]:
    if not contains(tracked.covered, mapping):
        raise NotTracked
    return tracked.faults.peek_written(mapping)


def contains(covered: Sequence[Mapping], mapping: Mapping) -> bool:
    return any(one.start <= mapping.start and mapping.end <= one.end for one in covered)


def merged(found: Iterable[Mapping]) -> tuple[Mapping, ...]:
    """Neighbours made one: the kernel joins and splits mappings as it likes."""
    result: list[Mapping] = []
    for one in sorted(found):
        if result and result[-1].end == one.start:
            result[-1] = Mapping(result[-1].start, one.end)
        else:
            result.append(one)
    return tuple(result)


def within(ranges: Sequence[PageRange], mappings: Sequence[Mapping]) -> list[PageRange]:
    """Those of the ranges that touch one of the mappings."""
    return [
        one
        for one in ranges
        if any(one.address < other.end and other.start < one.end for other in mappings)
    ]


def best_tracker(pause: Callable[[], AbstractContextManager[Pause]]) -> Tracker:
    """What this kernel offers; `pause` stops the container for a moment where that is needed."""
    if write_faults.supported():
        return WriteTracker()
    return SoftDirtyTracker(pause) if soft_dirty.supported() else DigestTracker()
