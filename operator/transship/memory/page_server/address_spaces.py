"""The address spaces that get their pages lazily: what each of them still lacks.

One per process of the restored container, and per child that it forks meanwhile. All that happens
to them stands in the event log, so that another server finds them as they are.
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
"""The pages that the images leave to be given later, by the pid in the images."""


@dataclass
class AddressSpace:
    """One address space. `pid` is the one in the images: a child has its ancestor's."""

    number: int
    fd: int
    pid: int
    areas: LazyAreas
    waiting: set[int] = field(default_factory=set)
    """Addresses of pages that some thread of it waits for."""


class AddressSpaces:
    """All of them, by the number of the log's entry that began each."""

    def __init__(self, log: EventLog, lazy_pages: LazyPages) -> None:
        """As the log tells; an earlier server may have written it."""
        self._log = log
        self._lazy_pages = lazy_pages
        self.alive: dict[int, AddressSpace] = {}
        self.forked: set[int] = set()
        """Of these in the images there are, or were, several: a page may be wanted twice."""
        self.restore_finished = False
        """The restore is: all of them are known, but for children to come."""
        for entry in log.entries():
            self._replay(entry)

    def add(self, pid: int, fd: int) -> AddressSpace:
        """A process that is being restored."""
        return self._begin(self._log.note(NoteKind.ADDED, words=(pid, fd)), pid, fd)

    def read(self, space: AddressSpace) -> Event | None:
        """Take one message of the kernel for it; None when there is none."""
        return self._log.read(space.fd, process=space.number)

    def apply(self, space: AddressSpace, event: Event) -> AddressSpace | None:
        """What was just read has happened to it; returns a child."""
        if event.kind is EventKind.FORK:
            return self._fork(space, self._log.keep(), event.descriptor)
        if _alter(space.areas, event.kind, event.words) or space.pid in self.forked:
            self._log.keep()
        return None

    def remove(self, space: AddressSpace) -> None:
        """Its process has ended; the descriptor may be closed now."""
        self._log.note(NoteKind.GONE, process=space.number)
        self.alive.pop(space.number, None)

    def finish_restore(self) -> None:
        if not self.restore_finished:
            self._log.note(NoteKind.FINISHED)
        self.restore_finished = True

    @property
    def complete(self) -> bool:
        """Nobody lacks a page any more."""
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
            case NoteKind.GONE:
                self.alive.pop(entry.process, None)
            case NoteKind.FINISHED:
                self.restore_finished = True
            case EventKind.FORK:
                fd = Event(entry.kind, entry.words).descriptor
                self._fork(self.alive[entry.process], entry.number, fd)
            case EventKind.FAULT | EventKind.REMAP | EventKind.REMOVE | EventKind.UNMAP:
                _alter(self.alive[entry.process].areas, entry.kind, entry.words)
            case _ as never:
                assert_never(never)


def _alter(areas: LazyAreas, kind: EventKind, words: tuple[int, int, int]) -> bool:
    """Whether any page that is still lacking was moved or dropped."""
    if kind is EventKind.REMAP:
        start, to, size = words
        return areas.move(start, to, size)
    if kind in {EventKind.REMOVE, EventKind.UNMAP}:
        return areas.drop(words[0], words[1])
    return False
