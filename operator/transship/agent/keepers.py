"""The agent's hold on a page keeper (see page_keeper): starting it, telling it what to expect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime.layout import Layout
from transship.runtime.lazy_daemon import leave_agent
from transship.runtime.pagemaps import LazyRange

END_TIMEOUT_SECONDS = 5.0
LOG_NAME = "page-keeper.log"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of this agent."""

    authority: Path
    certificate: Path
    key: Path


class PageKeeper:
    """One page keeper that waits for the source's stream on `port`."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, port: int, control: socket.socket
    ) -> None:
        self.port = port
        self._process = process
        self._control = control

    @classmethod
    async def start(
        cls, layout: Layout, container: str, *, address: str, files: TlsFiles, peer: str,
        pages: socket.socket,
    ) -> Self:  # fmt: skip
        """`pages` is the server's end of the daemon's connection; it stays the caller's."""
        work = layout.images(container) / "work"
        ours, theirs = socket.socketpair()
        with socket.create_server((address, 0), backlog=1) as listener, theirs:
            port: int = listener.getsockname()[1]
            descriptors = {"--listener": listener, "--pages": pages, "--control": theirs}
            words = [
                sys.executable, "-m", "transship.agent.page_keeper", "--peer", peer,
                "--ca", str(files.authority), "--cert", str(files.certificate),
                "--key", str(files.key),
            ]  # fmt: skip
            for flag, sock in descriptors.items():
                words += [flag, str(sock.fileno())]
            with (work / LOG_NAME).open("wb") as log:
                process = _spawn(words, list(descriptors.values()), log)
        await asyncio.to_thread(leave_agent, layout, pid=process.pid)
        ours.setblocking(False)
        return cls(process, port=port, control=ours)

    async def expect(self, ranges: Sequence[LazyRange], *, timeout_seconds: float) -> None:
        """Return when all these pages are stored. Raises TransshipError when they will not be."""
        wanted = [(each.process, each.address, each.pages) for each in ranges]
        reader, writer = await asyncio.open_connection(sock=self._control, limit=1 << 16)
        try:
            async with asyncio.timeout(timeout_seconds):
                writer.write(json.dumps({"expect": wanted}).encode() + b"\n")
                await writer.drain()
                line = await reader.readline()
        except TimeoutError as e:
            raise DeadlineExceeded("receiving pages: not all have arrived in time") from e
        finally:
            writer.close()
        said = json.loads(line) if line else {"error": "the page keeper has ended"}
        if "error" in said:
            raise TransshipError(f"receiving pages: {said['error']}", reason=Reason.PAGES_LOST)

    async def ended(self) -> None:
        """Wait for its end, which is the end of the daemon."""
        await asyncio.to_thread(self._process.wait)

    async def close(self) -> None:
        """End it whatever it does. Never while a copy that is to live waits for its pages."""
        self._control.close()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            await asyncio.to_thread(self._process.wait, END_TIMEOUT_SECONDS)


def _spawn(
    words: Sequence[str], inherited: Sequence[socket.socket], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """In a session of its own: it outlives the agent."""
    return subprocess.Popen(
        words,
        pass_fds=[sock.fileno() for sock in inherited],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
