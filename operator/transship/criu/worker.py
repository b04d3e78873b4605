"""A CRIU process that serves RPC requests; CRIU's version and features.

CRIU is started as `criu swrk FD`, for one client on a socket pair. It has a session of its own, so
that a signal to the group ends what it has started as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from transship.api.reasons import Reason
from transship.common.errors import CommandFailed, DeadlineExceeded, TransshipError
from transship.common.processes import run
from transship.criu.rpc import Features, Kind, Request, Response, decode

MESSAGE_LIMIT_BYTES = 1 << 16
PROBE_TIMEOUT_SECONDS = 10.0
KILL_TIMEOUT_SECONDS = 5.0
"""A killed CRIU ends within milliseconds, unless it waits in ptrace for a frozen task."""

MARK = {"TRANSSHIP_CRIU": "worker"}
"""In the environment of each CRIU that an agent starts, so that a later agent recognizes it."""

ORPHAN_POLL_SECONDS = 0.01

OnNotify = Callable[[str], Awaitable[None]]
"""Called with the script of each notification; CRIU undoes the dump if it raises TransshipError."""


class CriuFailed(TransshipError):
    """CRIU failed; `first_error` is the first error in its log, as its response quotes it."""

    reason = Reason.CRIU_FAILED

    def __init__(self, message: str, *, first_error: str = "") -> None:
        super().__init__(message)
        self.first_error = first_error


@dataclass(frozen=True)
class CriuFacts:
    """The version of this node's CRIU, and its features on this kernel."""

    version: tuple[int, int, int]
    memory_tracking: bool
    """Soft-dirty bits, for a pre-dump."""
    lazy_pages: bool
    """userfaultfd."""

    @property
    def version_text(self) -> str:
        return ".".join(str(part) for part in self.version)


class Worker:
    """A running `criu swrk`, to be used in an `async with`.

    Start it before the freeze: its start takes 5 to 10 ms, which the blackout does not include
    then.
    """

    def __init__(self, process: asyncio.subprocess.Process, channel: socket.socket) -> None:
        self._process = process
        self._channel = channel

    @classmethod
    async def start(
        cls,
        *,
        pass_fds: tuple[int, ...] = (),
        network: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Start CRIU, in a network namespace if given; `pass_fds` keep their numbers."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            process = await asyncio.create_subprocess_exec(
                *inside(network),
                "criu",
                "swrk",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *pass_fds),
                env={**os.environ, **(environment or {}), **MARK},
                start_new_session=True,
            )
        except OSError as e:
            ours.close()
            raise TransshipError(f"starting criu: {e}", reason=Reason.CRIU_MISSING) from e
        finally:
            theirs.close()
        return cls(process, ours)

    async def ask(self, request: Request, *, on_notify: OnNotify | None = None) -> Response:
        """Send a request and reply to CRIU's notifications until its response comes.

        Raises CriuFailed for a response without success, and when CRIU dies.
        """
        await self._send(request)
        while True:
            response = await self._receive()
            if response.kind == Kind.NOTIFY:
                await self._reply(response.script, on_notify)
            elif not response.success:
                raise CriuFailed("CRIU failed", first_error=response.error)
            else:
                return response

    async def _reply(self, script: str, on_notify: OnNotify | None) -> None:
        try:
            if on_notify is not None:
                await on_notify(script)
        except TransshipError:
            await self._send(Request(kind=Kind.NOTIFY, notify_success=False))
            raise
        await self._send(Request(kind=Kind.NOTIFY, notify_success=True))

    async def _send(self, request: Request) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._channel, request.encode())
        except OSError as e:
            raise CriuFailed(f"CRIU ended before it was asked: {e.strerror}") from e

    async def _receive(self) -> Response:
        loop = asyncio.get_running_loop()
        try:
            message = await loop.sock_recv(self._channel, MESSAGE_LIMIT_BYTES)
        except OSError as e:
            raise CriuFailed(f"CRIU ended without an answer: {e.strerror}") from e
        if not message:
            raise CriuFailed("CRIU ended without an answer")
        return decode(message)

    async def wait(self) -> int:
        """Hang up and wait for the end of the process, which takes 1 ms after a response."""
        self._channel.close()
        return await self._process.wait()

    async def kill(self) -> None:
        """Kill CRIU and all that it has started; returns when CRIU has ended.

        Raises DeadlineExceeded when CRIU waits in the kernel for a frozen task; it ends as soon as
        the task is thawed.
        """
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_TIMEOUT_SECONDS):
                await self._process.wait()
        except TimeoutError as e:
            raise DeadlineExceeded("killing CRIU: it waits for a frozen task") from e

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.kill()


def inside(network: Path | None) -> tuple[str, ...]:
    """Return the prefix of a command that runs it in a network namespace; empty without one.

    CRIU does not dump the namespace that it runs in. Of any other, external ones too, it dumps the
    connection tracking, for which the kernel walks the table of the whole node: 22 ms of a dump of
    48 ms. A container dumped from inside its namespace is restored from inside: the images name no
    network namespace, and the processes start in CRIU's own.
    """
    return () if network is None else ("nsenter", f"--net={network}", "--")


async def probe() -> CriuFacts:
    """Ask CRIU for its version, and for its features on this kernel."""
    version = await _ask_once(Request(kind=Kind.VERSION))
    features = Features(memory_tracking=True, lazy_pages=True)
    checked = await _ask_once(Request(kind=Kind.FEATURE_CHECK, features=features))
    return CriuFacts(
        version=version.version,
        memory_tracking=bool(checked.features.memory_tracking),
        lazy_pages=bool(checked.features.lazy_pages),
    )


async def _ask_once(request: Request) -> Response:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS), await Worker.start() as worker:
            return await worker.ask(request)
    except TimeoutError as e:
        raise DeadlineExceeded("asking CRIU what it can do") from e


async def orphans_ended(*, timeout_seconds: float) -> bool:
    """Wait for the CRIUs of an agent that died; call it before any container is thawed.

    Their channel is closed, so they undo what they have begun and end. At last they freeze the
    container again if it was frozen before. Returns whether all have ended in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while _orphans():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(ORPHAN_POLL_SECONDS)
    return True


def _orphans() -> list[int]:
    pids = []
    mark = b"TRANSSHIP_CRIU=worker"
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"criu\n" and mark in path.with_name("environ").read_bytes():
                pids.append(int(path.parent.name))
    return pids


async def warm() -> None:
    """Let CRIU probe the kernel once and cache the results in /run/criu.kdat.

    Without that file every start takes 30 to 50 ms longer. CRIU writes it on a tmpfs only. The
    verdict of `criu check` is ignored, because it proves too little; selftest.py proves more.
    """
    with contextlib.suppress(CommandFailed):
        await run(["criu", "check"], timeout_seconds=PROBE_TIMEOUT_SECONDS)
