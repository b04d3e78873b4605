"""The address spaces that get their pages lazily, and the pages that each of them still misses.

There is one per restored process, and one per child that these fork meanwhile. Everything that
happens to them is in the event log, so that the next worker can rebuild them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import assert_never

from transship.linux.pages import PageRange
from transship.linux.userfaultfd import Event, EventKind
from transship.memory.page_server.event_log import Entry, EventLog, NoteKind
from transship.memory.page_server.lazy_areas import LazyArea, LazyAreas

LazyPages = Callable[[int], Iterable[PageRange]]
"""Returns the pages that CRIU's images leave out, for a pid as the images have it."""


@dataclass
class AddressSpace:
    """One address space. `pid` is the pid in the images; a child has its ancestor's."""

    number: int
    fd: int
    pid: int
    areas: LazyAreas
    waiting: set[int] = field(default_factory=set)
    """Addresses of the pages that its threads wait for."""


class AddressSpaces:
    """All address spaces, by the number of the log entry that added each."""

    def __init__(self, log: EventLog, lazy_pages: LazyPages) -> None:
        """Rebuild the state from the log, which an earlier worker may have written."""
        self._log = log
        self._lazy_pages = lazy_pages
        self.alive: dict[int, AddressSpace] = {}
        self.forked: set[int] = set()
        """Pids that were forked: several address spaces may need the same page."""
        self.restore_finished = False
        """Every restored process is known. Children may still be added."""
        for entry in log.entries():
            self._replay(entry)

    def add(self, pid: int, fd: int) -> AddressSpace:
        """Add a process that is being restored, with its userfaultfd."""
        return self._begin(self._log.note(NoteKind.ADDED, words=(pid, fd)), pid, fd)

    def read(self, space: AddressSpace) -> Event | None:
        """Read one message from its userfaultfd; None when there is none."""
        return self._log.read(space.fd, process=space.number)

    def apply(self, space: AddressSpace, event: Event) -> AddressSpace | None:
        """Apply the event that was just read. Returns the child of a fork."""
        if event.kind is EventKind.FORK:
            return self._fork(space, self._log.keep(), event.descriptor)
        if _alter(space.areas, event.kind, event.words) or space.pid in self.forked:
            self._log.keep()
        return None

    def remove(self, space: AddressSpace) -> None:
        """Remove it after its process has ended. Its descriptor may be closed then."""
        self._log.note(NoteKind.REMOVED, process=space.number)
        self.alive.pop(space.number, None)

    def finish_restore(self) -> None:
        if not self.restore_finished:
            self._log.note(NoteKind.RESTORE_FINISHED)
        self.restore_finished = True

    @property
    def complete(self) -> bool:
        """No address space misses a page any more."""
        return self.restore_finished and not any(space.areas for space in self.alive.values())

    def _begin(self, number: int, pid: int, fd: int) -> AddressSpace:
        areas = LazyAreas(
            LazyArea(one.address, one.end, one.address) for one in self._lazy_pages(pid)
        )
        space = self.alive[number] = AddressSpace(number, fd, pid, areas)
        return space

    def _fork(self, parent: AddressSpace, number: int, fd: int) -> AddressSpace:
        self.forked.add(parent.pid)
        child = self.alive[number] = AddressSpace(number, fd, parent.pid, parent.areas.copy())
        return child

    def _replay(self, entry: Entry) -> None:
        match entry.kind:
            case NoteKind.ADDED:
                self._begin(entry.number, entry.words[0], entry.words[1])
            case NoteKind.REMOVED:
                self.alive.pop(entry.process, None)
            case NoteKind.RESTORE_FINISHED:
                self.restore_finished = True
            case EventKind.FORK:
                fd = Event(entry.kind, entry.words).descriptor
                self._fork(self.alive[entry.process], entry.number, fd)
            case EventKind.FAULT | EventKind.REMAP | EventKind.REMOVE | EventKind.UNMAP:
                _alter(self.alive[entry.process].areas, entry.kind, entry.words)
            case _ as never:
                assert_never(never)


def _alter(areas: LazyAreas, kind: EventKind, words: tuple[int, int, int]) -> bool:
    """Apply a remap, remove or unmap. Returns whether it concerned any page still missing."""
    if kind is EventKind.REMAP:
        start, to, size = words
        return areas.move(start, to, size)
    if kind in {EventKind.REMOVE, EventKind.UNMAP}:
        return areas.drop(words[0], words[1])
    return False
