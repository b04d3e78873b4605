"""The process that stores a container's pages until the restored container has all of them.

The target's agent starts one per incoming migration, before the freeze. It receives the source's
page streams into a store, and fills the memory of the restored processes from there. It is a
process of its own for two reasons. The container depends on it from its resume to its last page
(0.2 s for 256 MiB), and an agent that ends must not cut that short. And its threads do not share an
interpreter with the agent.

It consists of two processes. The guard only waits. The worker does all the work. They share one
table of open files, and the state of the worker is in memory files. When the worker is killed, its
userfaultfds, pages and state still exist, and the guard starts another worker, which continues;
until then the container waits for its pages. When only the guard is killed, the worker logs that
and continues.

Any agent of this node can ask it on its control socket (see messages).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.common.errors import TransshipError
from transship.common.threads import shorten_switch_interval, start_essential_thread
from transship.common.tls import server_context
from transship.criu.images import pagemap as pagemaps
from transship.linux.pages import PageRange
from transship.linux.shared_fork import close_all_but, fork_sharing_files
from transship.memory import shared_images
from transship.memory.page_server import messages
from transship.memory.page_server.address_spaces import AddressSpaces
from transship.memory.page_server.event_log import EventLog
from transship.memory.page_server.fault_server import FaultServer
from transship.memory.page_server.messages import Answer, Question
from transship.memory.page_server.page_index import Milestone, PageIndex
from transship.memory.page_server.page_store import CAPACITY_BYTES, PageStore
from transship.memory.page_server.streams import PageStreams
from transship.memory.postcopy.page_requests import PageRequests

RESTART_SECONDS = 0.05
"""Between workers: one that always fails must not take the CPU from the container."""

LINGER_SECONDS = 5.0
"""For the source to learn that all pages were stored, and to end its streams."""
QUESTION_SECONDS = 10.0
"""For the question on a new control connection."""
LONGEST_QUESTION = 100
"""In bytes."""
ANSWER_SECONDS = 1.0
"""For the answers to those who asked for the end."""


@dataclass(frozen=True)
class SharedResources:
    """What outlives a worker: descriptors, paths, and the guard's pid."""

    # listeners for the source's streams, for CRIU's restore, and for agents
    pages: int
    restore: int
    control: int
    # memory files
    store: int
    index: int
    log: int
    images: Path
    authority: Path
    certificate: Path
    key: Path
    peer: str
    guard_pid: int

    @property
    def descriptors(self) -> set[int]:
        return {self.pages, self.restore, self.control, self.store, self.index, self.log}


class PageServerWorker:
    """Does the work of a page server, from where the worker before it ended."""

    def __init__(self, resources: SharedResources) -> None:
        self._resources = resources
        self._store = PageStore(fd=resources.store, index_fd=resources.index)
        self._reading = threading.Lock()
        self._lazy_ranges: dict[int, list[PageRange]] = {}
        self._address_spaces = AddressSpaces(EventLog(resources.log), self._lazy_pages)
        kept = {space.fd for space in self._address_spaces.alive.values()}
        close_all_but(resources.descriptors | kept)
        self._page_requests = PageRequests()
        self._server = FaultServer(
            self._store,
            self._address_spaces,
            listener=socket.socket(fileno=resources.restore),
            page_request=self._page_requests.add,
            on_finished=self._notify_waiters,
        )
        context = server_context(
            authority=resources.authority, certificate=resources.certificate, key=resources.key
        )
        self._page_streams = PageStreams(
            self._store,
            context=context,
            peer=resources.peer,
            on_stored=self._on_pages_stored,
            page_requests=self._page_requests,
        )
        self._progress = threading.Condition()
        self._guarded = True
        self._ended = threading.Event()
        self._conversations: set[threading.Thread] = set()

    def run(self) -> None:
        """Serve until every process has all of its pages."""
        self._page_streams.listen(socket.socket(fileno=self._resources.pages))
        control = socket.socket(fileno=self._resources.control)
        start_essential_thread(lambda: self._listen(control), name="answering")
        threading.Thread(target=self._watch_guard, daemon=True).start()
        self._server.run()
        self._server.close()
        self._page_requests.close()
        # before the answer: the agent that asked for the end is likely to kill this process then
        self._page_streams.wait_ended(LINGER_SECONDS)
        (self._resources.images / "work" / messages.SOCKET_NAME).unlink(missing_ok=True)
        self._ended.set()
        # before the join: an agent may be waiting for the end of the source's stream
        self._page_streams.wait_ended(LINGER_SECONDS)
        for thread in tuple(self._conversations):
            thread.join(ANSWER_SECONDS)

    def _lazy_pages(self, pid: int) -> list[PageRange]:
        self._read_expected_pages()
        return self._lazy_ranges.get(pid, [])

    def _read_expected_pages(self) -> None:
        """Read from CRIU's images, which are complete by now, which pages they leave out."""
        with self._reading:
            if self._lazy_ranges:
                return
            for entry in pagemaps.read(self._resources.images):
                pages = PageRange(entry.process, entry.address, entry.pages)
                self._lazy_ranges.setdefault(entry.process, []).append(pages)
            if not self._store.expecting:
                self._store.expect(one for ranges in self._lazy_ranges.values() for one in ranges)

    def _on_pages_stored(self) -> None:
        self._server.notify()
        self._notify_waiters()

    def _notify_waiters(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _wait_until(self, done: Callable[[], bool]) -> str:
        """Wait for `done` and for the end of the restore. Returns an error if `done` cannot hold.

        Another worker can continue only after both (see `run_guard`).
        """
        with self._progress:
            self._progress.wait_for(
                lambda: (
                    (done() and self._address_spaces.restore_finished) or self._page_streams.broken
                )
            )
        return "" if done() else self._page_streams.broken

    def _watch_guard(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            guard = os.pidfd_open(self._resources.guard_pid)
            poll = select.poll()
            poll.register(guard, select.POLLIN)
            poll.poll()
        self._guarded = False
        logger.warning("the guard was killed: if this worker is killed too, pages are lost")

    def _listen(self, control: socket.socket) -> None:
        while True:
            channel, _ = control.accept()
            thread = threading.Thread(target=self._converse, args=(channel,), daemon=True)
            self._conversations.add(thread)
            thread.start()

    def _converse(self, channel: socket.socket) -> None:
        try:
            with (
                channel,
                contextlib.suppress(OSError),
                channel.makefile("rwb", buffering=0) as lines,
            ):
                channel.settimeout(QUESTION_SECONDS)
                if line := lines.readline(LONGEST_QUESTION):
                    lines.write(messages.encode(self._reply(line)))
        finally:
            self._conversations.discard(threading.current_thread())

    def _reply(self, line: bytes) -> Answer:
        """Return an answer in any case: the agent asks again if it gets none."""
        try:
            return self._answer(Question(line.decode().strip()))
        except Exception as e:
            logger.exception("a question could not be answered")
            return Answer(error=f"{type(e).__name__}: {e}")

    def _compose(self) -> str:
        try:
            shared_images.compose(self._resources.images, self._store)
        except (TransshipError, OSError) as e:
            return str(e)
        return ""

    def _answer(self, question: Question) -> Answer:
        error = ""
        match question:
            case Question.ALL_STORED:
                self._read_expected_pages()
                error = self._wait_until(lambda: self._store.ended)
                if self._store.ended and self._store.missing:
                    error = "the source has ended its stream"
            case Question.FINAL:
                self._read_expected_pages()
                error = self._wait_until(lambda: self._store.final)
            case Question.END:
                self._ended.wait()
            case Question.COMPOSE:
                error = self._compose()
            case Question.STATE:
                pass
        return Answer(
            missing=self._store.missing,
            received=self._store.received,
            guarded=self._guarded,
            error=error,
        )


def run_guard(resources: SharedResources) -> int:
    """Start workers until one has done the work. Returns the exit status."""
    index = PageIndex(resources.index, capacity=CAPACITY_BYTES)
    while True:
        pid = fork_sharing_files()
        if pid == 0:
            _run_worker(resources)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return 0
        logger.warning("the worker has ended with {}", status)
        if not (index.noted(Milestone.FINAL) and index.noted(Milestone.RESTORE_FINISHED)):
            return 1  # the target has not reported Held yet: the migration is rolled back
        time.sleep(RESTART_SECONDS)


def _run_worker(resources: SharedResources) -> None:
    try:
        PageServerWorker(resources).run()
    except BaseException:
        logger.exception("serving pages failed")
        os._exit(1)
    os._exit(0)


def main(words: Sequence[str]) -> None:
    shorten_switch_interval()
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--pages", "--restore", "--control"):
        parser.add_argument(name, type=int, required=True, help="an inherited listener")
    for name in ("--images", "--ca", "--cert", "--key"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--peer", required=True, help="common name of the source's certificate")
    arguments = parser.parse_args(words)
    if sys.stdin.buffer.readline() != messages.BEGIN:
        sys.exit("the agent has ended")
    resources = SharedResources(
        pages=arguments.pages,
        restore=arguments.restore,
        control=arguments.control,
        store=os.memfd_create("transship-pages"),
        index=os.memfd_create("transship-index"),
        log=os.memfd_create("transship-events"),
        images=arguments.images,
        authority=arguments.ca,
        certificate=arguments.cert,
        key=arguments.key,
        peer=arguments.peer,
        guard_pid=os.getpid(),
    )
    sys.exit(run_guard(resources))


if __name__ == "__main__":
    main(sys.argv[1:])
