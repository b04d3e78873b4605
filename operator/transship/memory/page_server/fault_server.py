"""Serves the page faults of restored processes from the page store, and gives the rest unasked.

It does what CRIU's lazy-pages daemon does. It is one thread: the kernel refuses to fill a page
while an event is unread, so events come first, then faults, then pages that no process waits for.
Those are given in small steps, once the restore is finished. The pages that arrived last come
first: the container was using them before its freeze.

A page that is missing is never filled with zeros: its process waits.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from functools import partial

from transship.linux.pages import PageRange
from transship.linux.userfaultfd import EventKind, Filled, ended
from transship.memory.page_server import lazy_pages_socket
from transship.memory.page_server.address_spaces import AddressSpace, AddressSpaces
from transship.memory.page_server.lazy_pages_socket import (
    CriuClosed,
    CriuProcess,
    CriuRestoreFinished,
)
from transship.memory.page_server.page_filler import HINT_PAGES, FillInterrupted, PageFiller
from transship.memory.page_server.page_index import Milestone
from transship.memory.page_server.page_store import PageStore

STEP_PAGES = 512
"""Given unasked between two checks for faults: 0.3 ms."""
CHECK_SECONDS = 1.0
"""Between checks whether idle processes have ended."""
NO_MEMORY_SECONDS = 0.02
"""The pause after the kernel had no memory for a page."""


class FaultServer:
    """Serves one restore. Any thread may call `notify`; only one thread calls the rest."""

    def __init__(
        self,
        store: PageStore,
        address_spaces: AddressSpaces,
        *,
        listener: socket.socket,
        page_request: Callable[[PageRange], None],
        on_finished: Callable[[], None] = lambda: None,
    ) -> None:
        """`page_request` is called for pages that a process waits for and the store misses."""
        self._store = store
        self._address_spaces = address_spaces
        self._filler = PageFiller(store, address_spaces, page_request=page_request)
        self._on_finished = on_finished
        self._listener = listener
        self._restore: socket.socket | None = None
        self._closing = threading.Lock()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._watched: dict[int, AddressSpace] = {}
        self._sweeps: dict[int, int] = {}
        self._pause_seconds = 0.0
        for fd in (self._wakeup, listener.fileno()):
            self._poll.register(fd, select.POLLIN)
        for space in address_spaces.alive.values():
            self._filler.resume(space)
            self._watch(space)

    def notify(self) -> None:
        """Tell the server that the store has new pages. From any thread, also after the end."""
        with self._closing:
            if self._wakeup >= 0:
                os.eventfd_write(self._wakeup, 1)

    def run(self) -> None:
        """Serve until no process misses a page any more."""
        while not self._address_spaces.complete:
            ready = self._poll.poll(self._poll_seconds() * 1000)
            self._pause_seconds = 0.0
            for fd, _ in ready:
                self._react(fd)
            if self._has_work():
                self._step()
            elif not ready:
                self._remove_ended()

    def close(self) -> None:
        """Close the userfaultfds: from then on the kernel serves faults itself, with zeros."""
        for space in list(self._address_spaces.alive.values()):
            self._gone(space)
        if self._restore is not None:
            self._restore.close()
        with self._closing:  # the stream that brought the last page may be calling notify
            os.close(self._wakeup)
            self._wakeup = -1

    def _poll_seconds(self) -> float:
        if self._pause_seconds:
            return self._pause_seconds
        return 0.0 if self._has_work() else CHECK_SECONDS

    def _has_work(self) -> bool:
        if not (self._address_spaces.restore_finished and self._store.final):
            return False
        if not self._store.missing and not self._sweeps and not self._store.arrivals:
            self._sweeps = dict.fromkeys(self._address_spaces.alive, 0)  # nothing is left to come
        return bool(self._store.arrivals or self._sweeps)

    def _watch(self, space: AddressSpace) -> None:
        self._watched[space.fd] = space
        self._poll.register(space.fd, select.POLLIN)
        self._sweeps[space.number] = 0

    def _react(self, fd: int) -> None:
        if fd == self._wakeup:
            os.eventfd_read(self._wakeup)
            for space in list(self._address_spaces.alive.values()):
                self._attempt(space, self._filler.serve_waiting)
        elif fd in self._watched:
            self._attempt(self._watched[fd], self._read_events)
        elif fd == self._listener.fileno():
            self._restore, _ = self._listener.accept()
            self._poll.register(self._restore, select.POLLIN)
        elif self._restore is not None and fd == self._restore.fileno():
            self._read_criu_message(self._restore)

    def _read_criu_message(self, channel: socket.socket) -> None:
        match lazy_pages_socket.receive_message(channel):
            case CriuProcess(pid, fd):
                self._watch(self._address_spaces.add(pid, fd))
            case CriuRestoreFinished():
                self._address_spaces.finish_restore()
                self._store.note(Milestone.RESTORE_FINISHED)
                self._on_finished()
            case CriuClosed():
                self._poll.unregister(channel)
                channel.close()
                self._restore = None
            case _:
                pass

    def _read_events(self, space: AddressSpace) -> None:
        """Read and handle all events of a process."""
        while (event := self._address_spaces.read(space)) is not None:
            if event.kind is EventKind.FAULT:
                self._filler.serve_fault(space, event.address)
                continue
            child = self._address_spaces.apply(space, event)
            if child is not None:
                self._watch(child)
            self._filler.serve_waiting(space)  # perhaps for a page that it has just dropped

    def _step(self) -> None:
        """Give up to STEP_PAGES pages unasked."""
        given = 0
        while self._store.arrivals and given < STEP_PAGES:
            hint = self._store.arrivals.pop()
            given += max(hint.pages, HINT_PAGES)
            for space in list(self._address_spaces.alive.values()):
                if space.pid == hint.pid:
                    self._attempt(space, partial(self._filler.give, pages=hint))
        for number, start in list(self._sweeps.items())[:1]:
            if given < STEP_PAGES:
                self._sweep(number, start)

    def _sweep(self, number: int, start: int) -> None:
        space = self._address_spaces.alive.get(number)
        area = None if space is None else space.areas.after(start, pages=STEP_PAGES)
        if space is None or area is None:
            self._sweeps.pop(number, None)
            return
        if self._attempt(space, partial(self._filler.give_area, area=area)):
            self._sweeps[number] = area.end

    def _attempt(self, space: AddressSpace, work: Callable[[AddressSpace], None]) -> bool:
        """Do some filling for a process. Returns False when it was interrupted."""
        try:
            work(space)
        except FillInterrupted as e:
            if e.why is Filled.GONE:
                self._gone(space)
            elif e.why is Filled.NO_MEMORY:
                self._pause_seconds = NO_MEMORY_SECONDS
            return False
        return True

    def _remove_ended(self) -> None:
        for space in list(self._address_spaces.alive.values()):
            if ended(space.fd):
                self._gone(space)

    def _gone(self, space: AddressSpace) -> None:
        self._address_spaces.remove(space)
        self._watched.pop(space.fd)
        self._poll.unregister(space.fd)
        self._sweeps.pop(space.number, None)
        os.close(space.fd)
