"""The target's end of CRIU's page stream: `criu page-server`, mutual TLS, one connection.

It writes the pages of one dump into the images' directory. The dump tells it when all pages were
sent; its exit status says whether it got and wrote them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime.criu import CriuFailed, Worker
from transship.runtime.criu_log import LOG_LEVEL, read_log
from transship.runtime.criu_rpc import Kind, Options, PageServerInfo, Request
from transship.runtime.directories import opened

START_TIMEOUT_SECONDS = 5.0
LOG_NAME = "page-server.log"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files. CRIU's client wants the server's certificate to name the address it connects to."""

    ca: Path
    certificate: Path
    key: Path


class PagesLost(TransshipError):
    """Not every page of the dump has arrived."""

    reason = "PagesLost"

    def __init__(self, message: str, *, log_tail: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log_tail = log_tail


class PageServer:
    """A page server that waits for its one connection on `port`."""

    def __init__(self, worker: Worker, *, pid: int, port: int, work: Path) -> None:
        self._worker = worker
        self._pid = pid
        self._work = work
        self.port = port

    @classmethod
    async def start(
        cls, *, images: Path, work: Path, address: str, tls: TlsFiles | None, port: int = 0
    ) -> PageServer:
        """Listen on a node's address; port 0 lets the kernel choose."""
        worker = await Worker.start()
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                with opened(images) as images_fd, opened(work) as work_fd:
                    wanted = _options(images_fd, work_fd, address=address, port=port, tls=tls)
                    answer = await worker.ask(
                        Request(kind=Kind.PAGE_SERVER_CHILD, options=wanted, keep_open=True)
                    )
        except BaseException as e:
            await worker.kill()
            if isinstance(e, CriuFailed | TimeoutError):
                message = f"starting the page server on {address}: {read_log(work / LOG_NAME)}"
                raise TransshipError(message, reason="PageServerFailed") from e
            raise
        info = answer.page_server
        return cls(worker, pid=info.pid or 0, port=info.port or port, work=work)

    async def finish(self, *, timeout_seconds: float) -> None:
        """Wait until the dump has ended. Raises PagesLost unless every page was written."""
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await self._worker.ask(Request(kind=Kind.WAIT_PID, pid=self._pid))
        except TimeoutError as e:
            raise DeadlineExceeded("receiving pages: the dump has not ended") from e
        except CriuFailed as e:
            raise self._lost() from e
        finally:
            await self.close()
        if answer.status != 0:
            raise self._lost()

    def _lost(self) -> PagesLost:
        return PagesLost(
            "receiving pages: the stream broke off",
            log_tail=read_log(self._work / LOG_NAME),
            hint="look at the source's dump, the network, and the room for images on the target",
        )

    async def close(self) -> None:
        """End it whatever it does; it writes nothing from then on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        await self._worker.kill()


def _options(
    images_fd: int, work_fd: int, *, address: str, port: int, tls: TlsFiles | None
) -> Options:
    return Options(
        images_dir_fd=images_fd,
        work_dir_fd=work_fd,
        log_level=LOG_LEVEL,
        log_file=LOG_NAME,
        page_server=PageServerInfo(address=address, port=port),
        tls=tls is not None,
        tls_ca=None if tls is None else str(tls.ca),
        tls_certificate=None if tls is None else str(tls.certificate),
        tls_key=None if tls is None else str(tls.key),
        # CRIU would compare the client's name with the address that the server itself listens on
        tls_no_cn_verify=tls is not None,
    )
