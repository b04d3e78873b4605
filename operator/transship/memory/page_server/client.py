"""The agent's client of a page server: starts it, finds it again, asks it and ends it.

A page server is found by its files in the working folder of a container's images. So an agent that
was restarted can go on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.common.idle_timeout import cancel_if_fails, idle_timeout
from transship.common.tls import TlsFiles
from transship.linux.processes import start_time
from transship.memory.page_server import lazy_pages_socket, messages
from transship.memory.page_server.messages import Answer, Question
from transship.runtime.detach import leave_agent
from transship.runtime.layout import Layout

LOG_NAME = "page-server.log"
END_TIMEOUT_SECONDS = 5.0
RETRY_SECONDS = 0.05
"""The guard replaces a worker that was killed in about this time."""
STATE_TIMEOUT_SECONDS = 10.0
"""The answer to STATE takes a millisecond, or a tenth of a second after the worker was killed."""
CHECK_SECONDS = 2.0
"""Between checks that the page server still answers, while waiting for the end of its work."""


class PageServerDead(TransshipError):
    """Guard and worker were both killed: the pages that the container still misses are lost.

    The only proof is that no process listens on the control socket any more. An answer that is
    missing, incomplete or unreadable proves nothing: see PageServerSilent.
    """

    reason = Reason.PAGES_LOST


class PageServerSilent(DeadlineExceeded):
    """It lives, but did not give a readable answer in time."""

    reason = Reason.PAGE_SERVER_SILENT


class PageServerClient:
    """The client of one container's page server."""

    def __init__(self, work: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        """`process` is the guard, if this agent started it."""
        self._work = work
        self._process = process
        self._last_error = ""

    @classmethod
    async def start(
        cls, layout: Layout, container: str, *, address: str, files: TlsFiles, peer: str
    ) -> tuple[Self, int]:
        """Start a page server. Returns its client, and the port for the source's page streams.

        From then on a restore can connect to it.
        """
        images = layout.images(container)
        work = images / "work"
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            socket.create_server((address, 0), backlog=8) as pages,
            _listener(work, lazy_pages_socket.SOCKET_NAME) as restore,
            _listener(work, messages.SOCKET_NAME) as control,
            (work / LOG_NAME).open("wb") as log,
        ):
            port: int = pages.getsockname()[1]
            listeners = {"--pages": pages, "--restore": restore, "--control": control}
            process = _spawn(_command_line(images, files, peer), listeners, log)
        pid = process.pid
        (work / messages.PIDFILE_NAME).write_text(f"{pid} {start_time(pid)}")
        page_server = cls(work, process)
        try:
            await asyncio.to_thread(leave_agent, layout, pid=pid)
            page_server._let_begin()
        except BaseException:
            await page_server.close()
            raise
        return page_server, port

    def _let_begin(self) -> None:
        """Let the guard begin, now that it is detached from the agent and can be found again."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(messages.BEGIN)

    @classmethod
    def find(cls, layout: Layout, container: str) -> Self | None:
        """Return the page server that works for a container, or has died at that work."""
        work = layout.images(container) / "work"
        return cls(work) if (work / messages.SOCKET_NAME).exists() else None

    @classmethod
    def leftover(cls, layout: Layout, container: str) -> Self:
        """Return whatever is left of a container's page server, to be closed."""
        return cls(layout.images(container) / "work")

    async def wait_all_stored(self, *, timeout_seconds: float) -> None:
        """Wait until every page of the dump is stored. Raises TransshipError if that cannot be.

        timeout_seconds: how long the wait goes on without a new page.
        """
        await self._wait_for(Question.ALL_STORED, timeout_seconds)

    async def wait_final(self, *, timeout_seconds: float) -> None:
        """Wait until no stored page is stale any more. Pages may still be missing then."""
        await self._wait_for(Question.FINAL, timeout_seconds)

    async def _wait_for(self, question: Question, timeout_seconds: float) -> None:
        try:
            async with idle_timeout(timeout_seconds, self.received):
                answer = await self._answer(question)
        except TimeoutError as e:
            raise DeadlineExceeded("receiving pages: not all have arrived in time") from e
        if answer.error:
            raise TransshipError(
                f"receiving pages: {answer.missing} have not arrived: {answer.error}",
                reason=Reason.PAGES_LOST,
            )

    async def compose(self, *, timeout_seconds: float) -> None:
        """Have the images of shared memory completed. Raises TransshipError."""
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._answer(Question.COMPOSE)
        except TimeoutError as e:
            raise DeadlineExceeded("composing images of shared memory: not done in time") from e
        if answer.error:
            raise TransshipError(answer.error, reason=Reason.PAGES_LOST)

    async def received(self) -> int:
        """Return a number that changes with every page. Raises PageServerDead, PageServerSilent."""
        return (await self.state()).received

    async def state(self) -> Answer:
        """Ask for its progress. Raises PageServerDead and PageServerSilent."""
        try:
            async with asyncio.timeout(STATE_TIMEOUT_SECONDS):
                return _checked(await self._answer(Question.STATE))
        except TimeoutError as e:
            raise PageServerSilent(
                f"asking a container's page server: {self._last_error}",
                hint=Reason.PAGE_SERVER_SILENT.hint,
            ) from e

    async def wait_done(self) -> None:
        """Wait until the container has all of its pages, without a limit of time.

        Raises PageServerDead if it never will have them, PageServerSilent if that is not known.
        """
        _checked(await cancel_if_fails(self._answer(Question.END), self._while_it_answers()))

    async def _while_it_answers(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self.state()

    async def _answer(self, question: Question) -> Answer:
        """Ask until there is an answer, from this worker or from the next one.

        Has no deadline of its own. Raises PageServerDead.
        """
        # no pause at first: a container whose page server is dead must be ended soon
        pause = 0.0
        self._last_error = "no answer"
        while True:
            try:
                return await self._ask(question)
            except FileNotFoundError:
                return Answer()  # its work is done
            except ConnectionRefusedError as e:  # a living guard would keep the listener open
                raise PageServerDead(
                    "giving a container its memory: its page server was killed"
                ) from e
            except (OSError, ValueError) as e:  # perhaps the worker was killed: another follows
                self._last_error = str(e) or "no answer"
            await asyncio.sleep(pause)
            pause = RETRY_SECONDS

    async def _ask(self, question: Question) -> Answer:
        with _path_to(self._work, messages.SOCKET_NAME) as path:
            reader, writer = await asyncio.open_unix_connection(path)
        try:
            writer.write(f"{question}\n".encode())
            await writer.drain()
            line = await reader.readline()
        finally:
            writer.close()
        return messages.decode(line)

    async def close(self) -> None:
        """Kill it. Not to be called while a container that is to live still misses pages."""
        await asyncio.to_thread(kill_leftover, self._work)
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            await asyncio.to_thread(self._process.wait, END_TIMEOUT_SECONDS)


def kill_leftover(work: Path) -> None:
    """Kill what is left of a page server: its container is dead or discarded, or has all pages."""
    (work / messages.SOCKET_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError, ValueError):
        pid, started = map(int, (work / messages.PIDFILE_NAME).read_text().split())
        with contextlib.suppress(OSError):
            if start_time(pid) != started:
                return  # the pid was reused: nothing of the page server is left
        # guard and worker are one process group, which has the guard's pid even without the guard
        os.killpg(pid, signal.SIGKILL)
        (work / messages.PIDFILE_NAME).unlink()


def _checked(answer: Answer) -> Answer:
    if answer.error:
        raise TransshipError(f"asking a container's page server: {answer.error}")
    return answer


def _command_line(images: Path, files: TlsFiles, peer: str) -> list[str]:
    options = {
        "--images": images,
        "--ca": files.authority,
        "--cert": files.certificate,
        "--key": files.key,
        "--peer": peer,
    }
    program = [sys.executable, "-m", "transship.memory.page_server.process"]
    return [*program, *(str(word) for option in options.items() for word in option)]


def _spawn(
    command: list[str], listeners: Mapping[str, socket.socket], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start it in a session of its own: it outlives the agent."""
    sockets = [str(word) for flag, one in listeners.items() for word in (flag, one.fileno())]
    return subprocess.Popen(
        [*command, *sockets],
        pass_fds=[listener.fileno() for listener in listeners.values()],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _listener(folder: Path, name: str) -> socket.socket:
    (folder / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _path_to(folder, name) as path:
            listener.bind(path)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def _path_to(folder: Path, name: str) -> Iterator[str]:
    """Yield a short path of a socket: an address has at most 108 bytes, and names are long."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
