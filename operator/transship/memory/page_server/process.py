"""The process that has a restored container's pages until the container has them all.

The target's agent starts one per incoming migration, before the freeze. It receives the source's
page stream into a store and fills the restored processes' memory from there. It is a process of
its own because the container depends on it from its resume to its last page (0.2 s for 256 MiB),
which the agent's end must not cut short; and because its threads then share no interpreter with
the agent.

It is two processes. The first, the guard, holds and waits. The second, the server, does all the
work; the two share one table of open files, and what the server knows stands in memory files. When
it is killed, userfaultfds, pages and knowledge are still there, and the guard starts another, which
goes on: the container waits meanwhile. The death of the guard alone changes nothing for the
container; the server notes it.

It is asked on its control socket (see messages), by any agent of this node.
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
from transship.common.threads import begin_for_ever, take_short_turns
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
"""Between servers: one that always fails must not take the processor from the container."""

LINGER_SECONDS = 5.0
"""For the source to hear that all it has sent was stored, and to say that this was all."""
QUESTION_SECONDS = 10.0
"""For a question to come on a connection that was made for it."""
LONGEST_QUESTION = 100
ANSWER_SECONDS = 1.0
"""For those who have asked for the end to be told of it."""


@dataclass(frozen=True)
class SharedResources:
    """What outlives a server: descriptors, and where things are."""

    pages: int  # listeners: for the source's streams, the restore, agents
    restore: int
    control: int
    store: int  # memory files
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
    """One server."""

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
        """Serve to the end."""
        self._page_streams.listen(socket.socket(fileno=self._resources.pages))
        control = socket.socket(fileno=self._resources.control)
        begin_for_ever(lambda: self._listen(control), name="answering")
        threading.Thread(target=self._watch_guard, daemon=True).start()
        self._server.run()
        self._server.close()
        self._page_requests.close()
        # before the answer: whoever asked for the end is likely to kill this process then
        self._page_streams.wait_ended(LINGER_SECONDS)
        (self._resources.images / "work" / messages.SOCKET_NAME).unlink(missing_ok=True)
        self._ended.set()
        # before the join: whoever waits for the end of the source's stream is asking
        self._page_streams.wait_ended(LINGER_SECONDS)
        for thread in tuple(self._conversations):
            thread.join(ANSWER_SECONDS)

    def _lazy_pages(self, pid: int) -> list[PageRange]:
        self._read_expected_pages()
        return self._lazy_ranges.get(pid, [])

    def _read_expected_pages(self) -> None:
        """Read what CRIU's images leave to be given later; they are complete by now."""
        with self._reading:
            if self._lazy_ranges:
                return
            for each in pagemaps.read(self._resources.images):
                found = PageRange(each.process, each.address, each.pages)
                self._lazy_ranges.setdefault(each.process, []).append(found)
            if not self._store.expecting:
                self._store.expect(one for ranges in self._lazy_ranges.values() for one in ranges)

    def _on_pages_stored(self) -> None:
        self._server.notify()
        self._notify_waiters()

    def _notify_waiters(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def _wait_until(self, done: Callable[[], bool]) -> str:
        """Wait for something, and for the end of the restore; else why the first will not be.

        After both another server can go on from here (see `guard`), and not before.
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
        logger.warning("the guard has died: from now on this server's death is the container's")

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
        """Always an answer: where a connection ends without one, the agent asks again."""
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
                    error = "the source has sent no more"
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
    """Start servers until one has done the work; returns the exit status."""
    index = PageIndex(resources.index, capacity=CAPACITY_BYTES)
    while True:
        pid = fork_sharing_files()
        if pid == 0:
            _run_worker(resources)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            return 0
        logger.warning("the server has ended with {}", status)
        if not (index.noted(Milestone.FINAL) and index.noted(Milestone.FINISHED)):
            return 1  # nobody has said Held yet: the move is undone
        time.sleep(RESTART_SECONDS)


def _run_worker(resources: SharedResources) -> None:
    try:
        PageServerWorker(resources).run()
    except BaseException:
        logger.exception("serving pages failed")
        os._exit(1)
    os._exit(0)


def main(words: Sequence[str]) -> None:
    take_short_turns()
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
