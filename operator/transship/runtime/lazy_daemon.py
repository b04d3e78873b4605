"""`criu lazy-pages`: gives a restored container its memory, page by page, as it is asked for it.

It holds the container's userfaultfds. When it ends early, however, the kernel drops them and gives
zeros for every page that is still missing: the container is lost. So nothing but the end of the
container or of all its pages may end it:

- it has a session of its own, and a cgroup apart from the agent's, as conmon has;
- it holds both ends of the connection to its page server: when the server (a thread of the agent)
  breaks off or dies, it does not see a hangup, of which it would end. The container then waits for
  its pages, unharmed, for as long as nobody serves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime import cgroups, failures, pidfds
from transship.runtime.failures import CheckpointFailed
from transship.runtime.layout import Layout

START_TIMEOUT_SECONDS = 5.0
END_TIMEOUT_SECONDS = 5.0
LOG_NAME = "lazy-pages.log"
LOG_LEVEL = 2  # above it, a line for each page
PIDFILE = "lazy-pages.pid"

_WAITING = 'read -r word && exec "$@" </dev/null'
"""What the process does until `start`: an agent that dies before it ends it."""

OUT_OF_MEMORY_SCORE = "-1000"

_MISSING_PAGES = re.compile(rb"^VmFlags:.* um ", re.MULTILINE)


class LazyDaemon:
    """One daemon, for one restore. Its pages are to be served on `pages`; CRIU's protocol.

    The server has to answer CRIU's closing word too; else the daemon does not end.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, pages: socket.socket, status: int, work: Path
    ) -> None:
        self.pages = pages
        self._process = process
        self._handle = os.pidfd_open(process.pid)
        self._status = status
        self._work = work

    @classmethod
    async def ready(cls, layout: Layout, container: str) -> Self:
        """Make the process, its connection and its cgroup: what needs no images yet.

        In a v1 hierarchy each cgroup that is entered costs up to 20 ms.
        """
        images = layout.images(container)
        work = images / "work"
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        status, telling = os.pipe()
        try:
            kept = (theirs.fileno(), ours.fileno(), telling)
            words = _arguments(images=images, work=work, pages=theirs.fileno(), status=telling)
            daemon = cls(_spawn(words, kept), pages=ours, status=status, work=work)
        except BaseException:
            ours.close()
            os.close(status)
            raise
        finally:
            theirs.close()
            os.close(telling)
        try:
            (work / PIDFILE).write_text(f"{daemon.pid} {_start_time(daemon.pid)}")
            await asyncio.to_thread(leave_agent, layout, pid=daemon.pid)
        except BaseException:
            await daemon.close()
            raise
        return daemon

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """Have it read the images, and wait until a restore can connect. Raises CheckpointFailed.

        What it reads now (the process tree, the inventory) has to be there; the rest a restore
        needs as well.
        """
        if self._process.stdin is None or self._process.stdin.closed:
            raise TransshipError("starting the lazy-pages daemon: it was started before")
        with contextlib.suppress(BrokenPipeError), self._process.stdin as words:
            words.write(b"start\n")
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                said = await _read_once(self._status)
        except TimeoutError as e:
            raise DeadlineExceeded("starting the lazy-pages daemon: it is not ready") from e
        if not said:
            raise self._failed("starting the lazy-pages daemon", Reason.PAGE_SERVER_FAILED)

    async def finish(self, *, timeout_seconds: float) -> None:
        """Wait until the container has all of its pages; then nothing outside holds any of it.

        Raises CheckpointFailed when the daemon ended otherwise: the container's memory is lost.
        Raises DeadlineExceeded when it has not ended; it goes on, and this can be repeated.
        """
        if not await pidfds.ended(self._handle, timeout_seconds=timeout_seconds):
            raise DeadlineExceeded(f"giving a container its memory: not in {timeout_seconds:g} s")
        status = self._process.wait()
        if status != 0:
            raise self._failed("giving a container its memory", Reason.PAGES_LOST)
        await self.close()

    async def close(self) -> None:
        """End it whatever it does. Never while a copy that is to live waits for its pages.

        Can be repeated, and is harmless after `finish`.
        """
        if self._process.returncode is None and self._handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            await pidfds.ended(self._handle, timeout_seconds=END_TIMEOUT_SECONDS)
            self._process.poll()
        for descriptor in (self._handle, self._status):
            if descriptor >= 0:
                os.close(descriptor)
        self._handle = self._status = -1
        if self._process.stdin is not None:
            self._process.stdin.close()
        (self._work / PIDFILE).unlink(missing_ok=True)
        self.pages.close()

    def _failed(self, doing: str, otherwise: Reason) -> CheckpointFailed:
        return failures.from_log(self._work / LOG_NAME, doing=doing, otherwise=otherwise)


def end_left(work: Path) -> None:
    """End a daemon that an agent left behind, of a copy that is dead or to be discarded."""
    with contextlib.suppress(OSError, ValueError):
        pid, start_time = map(int, (work / PIDFILE).read_text().split())
        (work / PIDFILE).unlink()
        with pidfds.handle(pid) as process:
            if _start_time(pid) == start_time:
                pidfds.send(process, signal.SIGKILL)


def require_whole(pids: Iterable[int]) -> None:
    """Raise CheckpointFailed when a process still waits for some of its memory.

    What has not come yet does not show in its page tables: a dump would pass over it (and the
    next restore would give zeros). Known by the mark that a userfaultfd leaves on its mappings.
    """
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            if _MISSING_PAGES.search(Path(f"/proc/{pid}/smaps").read_bytes()):
                raise CheckpointFailed(
                    "dumping: its memory of the move before has not all arrived yet",
                    reason=Reason.IN_MIGRATION,
                )


def _arguments(*, images: Path, work: Path, pages: int, status: int) -> list[str]:
    return [
        "/bin/sh", "-c", _WAITING, "sh",
        "criu", "lazy-pages", f"--images-dir={images}", f"--work-dir={work}",
        "--page-server", f"--ps-socket={pages}", f"--status-fd={status}",
        f"--log-file={LOG_NAME}", f"-v{LOG_LEVEL}",
    ]  # fmt: skip


def _spawn(words: list[str], kept: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Not asyncio's: that kills its children when the event loop ends."""
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=kept,
            start_new_session=True,
        )
    except OSError as e:
        reason = Reason.CRIU_MISSING
        raise TransshipError(f"starting the lazy-pages daemon: {e}", reason=reason) from e


def _start_time(pid: int) -> int:
    """In ticks since the boot: tells a process from a later one of the same number."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def leave_agent(layout: Layout, *, pid: int) -> None:
    """Move a process to where the end of the agent's service does not reach it."""
    hierarchies = cgroups.detect()
    cgroups.create(hierarchies, layout.conmon_cgroup)
    with contextlib.suppress(ProcessLookupError):
        cgroups.enter(hierarchies, layout.conmon_cgroup, pid=pid)
    with contextlib.suppress(OSError):  # wants CAP_SYS_RESOURCE
        Path(f"/proc/{pid}/oom_score_adj").write_text(OUT_OF_MEMORY_SCORE)


async def _read_once(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, 1)
