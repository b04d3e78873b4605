"""The target's end of a dump's pages: a TLS listener for one connection, and `criu page-server`.

The server writes the pages into the images' directory. Its exit status says whether it got and
wrote all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from pathlib import Path

from loguru import logger

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime import criu_log, failures
from transship.runtime.criu import CriuFailed, Worker
from transship.runtime.criu_rpc import Kind, Options, PageServerInfo, Request
from transship.runtime.directories import opened
from transship.runtime.failures import CheckpointFailed
from transship.runtime.page_stream import PageStream, answer

START_TIMEOUT_SECONDS = 5.0
LOG_NAME = "page-server.log"


class PageServer:
    """A page server that waits for its one connection on `port`."""

    def __init__(
        self, worker: Worker, *, pid: int, listener: socket.socket, stream: PageStream, work: Path
    ) -> None:
        self._worker = worker
        self.pid = pid
        self._listener = listener
        self._stream = stream
        self._work = work
        self.port: int = listener.getsockname()[1]
        self._connecting = asyncio.create_task(self._connect())

    @classmethod
    async def start(
        cls,
        *,
        images: Path,
        address: str,
        context: ssl.SSLContext,
        peer: str | None,
        port: int = 0,
    ) -> PageServer:
        """Listen on the node's address for the agent of the common name `peer` (None: any).

        Port 0 lets the kernel choose.
        """
        listener = socket.create_server((address, port), backlog=1)
        stream = PageStream(lambda: answer(listener, context, peer=peer))
        work = images / "work"
        try:
            worker, pid = await _start_criu(images=images, work=work, end=stream.criu_end)
        except BaseException:
            listener.close()
            stream.close()
            raise
        return cls(worker, pid=pid, listener=listener, stream=stream, work=work)

    async def _connect(self) -> None:
        try:
            await self._stream.connect()
        except (TransshipError, OSError) as e:
            logger.warning("no page stream: {}", e)
            self._stream.close()

    async def finish(self, *, timeout_seconds: float) -> None:
        """Wait until the dump has ended. Raises CheckpointFailed unless every page was written."""
        try:
            async with asyncio.timeout(timeout_seconds):
                answered = await self._worker.ask(Request(kind=Kind.WAIT_PID, pid=self.pid))
        except TimeoutError as e:
            raise DeadlineExceeded("receiving pages: the dump has not ended") from e
        except CriuFailed as e:
            raise self._lost() from e
        finally:
            await self.close()
        if answered.status != 0:
            raise self._lost()

    def _lost(self) -> CheckpointFailed:
        log = self._work / LOG_NAME
        return failures.from_log(log, doing="receiving pages", otherwise=Reason.PAGES_LOST)

    async def close(self) -> None:
        """End it whatever it does; it writes nothing from then on. Can be repeated."""
        self._stream.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
        self._listener.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await self._worker.kill()
        await asyncio.wait([self._connecting])


async def _start_criu(*, images: Path, work: Path, end: socket.socket) -> tuple[Worker, int]:
    """Have CRIU serve the socket pair; returns its worker and the server's process."""
    fd = end.fileno()
    worker = await Worker.start(pass_fds=(fd,))
    try:
        end.close()  # only CRIU's copy stays: its end is then seen at the other end of the pair
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            with opened(images) as images_fd, opened(work) as work_fd:
                options = _options(images_fd, work_fd, fd=fd)
                answered = await worker.ask(
                    Request(kind=Kind.PAGE_SERVER_CHILD, options=options, keep_open=True)
                )
    except BaseException as e:
        await worker.kill()
        if isinstance(e, CriuFailed | TimeoutError):
            raise failures.from_log(
                work / LOG_NAME,
                doing="starting the page server",
                otherwise=Reason.PAGE_SERVER_FAILED,
            ) from e
        raise
    return worker, answered.page_server.pid or 0


def _options(images_fd: int, work_fd: int, *, fd: int) -> Options:
    return Options(
        images_dir_fd=images_fd,
        work_dir_fd=work_fd,
        log_level=criu_log.LOG_LEVEL,
        log_file=LOG_NAME,
        page_server=PageServerInfo(fd=fd),
    )
