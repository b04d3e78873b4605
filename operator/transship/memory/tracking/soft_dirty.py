"""Tracks writes by the kernel's soft-dirty bits: one per page, cleared for all pages at once.

For kernels before 6.7, which have no PAGEMAP_SCAN. Reading and clearing the bits are two steps, and
a write between them would be lost. So the whole container is paused for both, for the milliseconds
that reading its page tables takes. A new mapping counts as written until its bits are cleared
(Documentation/admin-guide/mm/soft-dirty.rst). A process that was forked or has called exec counts
as new.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from transship.linux.pages import PAGE_BYTES, PageRange, joined, total
from transship.linux.process_memory import data_of, marked_pages, private_marks, private_pages
from transship.linux.processes import Process

_CLEAR_SOFT_DIRTY = "4"  # proc_pid_clear_refs(5)
_ENTRY_BYTES = 8
_SOFT_DIRTY = bytes(top >> 7 for top in range(256))  # bit 55: the topmost of an entry's sixth byte
_START_TIME = 19  # of the fields of /proc/PID/stat after the name


class Pause(Protocol):
    """All tasks of the container are paused."""

    def unbroken(self) -> bool:
        """Whether they were paused all the time since the pause began."""
        ...


class SoftDirtyTracker:
    """A Tracker. `pause` pauses the container's tasks for as long as its context lasts."""

    def __init__(self, pause: Callable[[], AbstractContextManager[Pause]]) -> None:
        self._pause = pause
        self._cleared: dict[Process, int] = {}  # with its start time: pids are reused

    def candidates(self, process: Process) -> tuple[PageRange, ...]:
        try:
            with self._pause() as pause:
                written = self._written(process)
                Path(f"/proc/{process.outside}/clear_refs").write_text(_CLEAR_SOFT_DIRTY)
                self._cleared[process] = _start_time(process)
                return written if pause.unbroken() else private_pages(process)
        except (FileNotFoundError, ProcessLookupError):
            return ()

    def final_candidates(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> tuple[PageRange, ...]:
        return self._written(process) if self._known(process) else tuple(ranges)

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        if not self._known(process):
            return ()
        return joined(marked_pages(process, _written_marks, data_of(process)))

    def count_changed(self, process: Process) -> int | None:
        return total(self._written(process)) if self._known(process) else None

    def differing(self, ranges: Sequence[PageRange], data: bytearray) -> bytes | None:
        return None

    def close(self) -> None:
        self._cleared.clear()

    def _written(self, process: Process) -> tuple[PageRange, ...]:
        if not self._known(process):
            return private_pages(process)
        return joined(marked_pages(process, _written_marks))

    def _known(self, process: Process) -> bool:
        try:
            return self._cleared.get(process) == _start_time(process)
        except (FileNotFoundError, ProcessLookupError):
            return False


def _written_marks(entries: bytes) -> bytes:
    """Return a byte per pagemap entry: 1 where the page is private and was written."""
    written = entries[6::_ENTRY_BYTES].translate(_SOFT_DIRTY)
    own = private_marks(entries)
    both = int.from_bytes(written, "little") & int.from_bytes(own, "little")
    return both.to_bytes(len(own), "little")


def _start_time(process: Process) -> int:
    text = Path(f"/proc/{process.outside}/stat").read_text()
    return int(text.rpartition(")")[2].split()[_START_TIME])


def supported() -> bool:
    """Whether this kernel has the bits: without them, a page just written reads as clean."""
    with mmap.mmap(-1, PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        page[0] = 1
        anchor = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(anchor)
        del anchor  # it would keep the mapping from being closed
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            entry = os.pread(fd, _ENTRY_BYTES, address // PAGE_BYTES * _ENTRY_BYTES)
        finally:
            os.close(fd)
    return b"\1" in _written_marks(entry)
