"""Tracks the writes of processes by the kernel's record if there is one, otherwise by digests.

In doubt, pages count as changed: those of a mapping that is new, has grown, or cannot be
registered, and those of a process that was forked or has called exec. A fork does not concern the
parent: the child has no record and is tracked as a new process. Neither this nor soft-dirty sees a
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
    """A process with its record, and the mappings that the record covers."""

    faults: WriteFaults
    covered: tuple[Mapping, ...] = field(default=())


class WriteTracker:
    """The fastest Tracker: a round takes a millisecond for 256 MiB."""

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
        written: list[PageRange] = []
        doubtful: list[Mapping] = []
        for one in mappings_of(process):
            try:
                written += _peek_all_written(tracked, one)
            except NotTracked:
                doubtful.append(one)
        return joined([*written, *within(ranges, doubtful)])

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        tracked = self._tracked.get(process)
        if tracked is None:
            return self._digests.candidates_during_dump(process)
        written: list[PageRange] = []
        for one in data_of(process):
            with contextlib.suppress(NotTracked):
                written += _peek_written(tracked, one)
        return joined(written)

    def count_changed(self, process: Process) -> int | None:
        tracked = self._tracked.get(process)
        if tracked is None:
            return None
        written = 0
        doubtful: list[Mapping] = []
        try:
            for one in mappings_of(process):
                try:
                    written += total(_peek_written(tracked, one))
                except NotTracked:
                    doubtful.append(one)
        except OSError:  # it has called exec, or has ended
            return None
        return written + total(private_pages(process, doubtful))

    def differing(self, ranges: Sequence[PageRange], data: bytearray) -> bytes | None:
        if any(process.inside == ranges[0].pid for process in self._tracked):
            return None
        return self._digests.differing(ranges, data)

    def close(self) -> None:
        """End the record of all processes: after an aborted move they run on unprotected."""
        for process in list(self._tracked):
            self._untrack(process)
        self._digests.close()

    def _track(self, process: Process) -> _TrackedProcess | None:
        try:
            faults = WriteFaults(process)
        except (OSError, TransshipError) as e:
            logger.bind(pid=process.outside).debug("writes cannot be tracked: {}", e)
            return None
        tracked = self._tracked[process] = _TrackedProcess(faults)
        self._digests.forget(process.inside)  # they are not updated while the record is used
        return tracked

    def _untrack(self, process: Process) -> None:
        self._tracked.pop(process).faults.close()

    def _take_written(self, process: Process, tracked: _TrackedProcess) -> tuple[PageRange, ...]:
        written: list[PageRange] = []
        covered: list[Mapping] = []
        doubtful: list[Mapping] = []
        for one in mappings_of(process):
            try:
                if contains(tracked.covered, one):
                    written += _take_or_register(process, tracked.faults, one)
                else:
                    written += _register(process, tracked.faults, one)
                covered.append(one)
            except NotTracked:
                doubtful.append(one)
        tracked.covered = merged(covered)
        return joined([*written, *private_pages(process, doubtful)])


def _take_or_register(
    process: Process, faults: WriteFaults, mapping: Mapping
) -> Iterable[PageRange]:
    try:
        return faults.take_written(mapping)
    except NotTracked:  # it was replaced by another mapping
        return _register(process, faults, mapping)


def _register(process: Process, faults: WriteFaults, mapping: Mapping) -> Iterable[PageRange]:
    """Begin to track a mapping: all of its pages count as changed."""
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


def merged(mappings: Iterable[Mapping]) -> tuple[Mapping, ...]:
    """Merge adjacent mappings: the kernel may join and split them at any time."""
    result: list[Mapping] = []
    for one in sorted(mappings):
        if result and result[-1].end == one.start:
            result[-1] = Mapping(result[-1].start, one.end)
        else:
            result.append(one)
    return tuple(result)


def within(ranges: Sequence[PageRange], mappings: Sequence[Mapping]) -> list[PageRange]:
    """Return the ranges that overlap one of the mappings."""
    return [
        one
        for one in ranges
        if any(one.address < other.end and other.start < one.end for other in mappings)
    ]


def best_tracker(pause: Callable[[], AbstractContextManager[Pause]]) -> Tracker:
    """Return the best tracker for this kernel. The soft-dirty one uses `pause`."""
    if write_faults.supported():
        return WriteTracker()
    return SoftDirtyTracker(pause) if soft_dirty.supported() else DigestTracker()
