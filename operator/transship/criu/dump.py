"""Dumping a frozen container: to images, of which its memory is a part or not.

What holds after `dump` returned: CRIU is gone, the images are complete, the container is frozen,
and nothing of it has run since the snapshot. After any failure CRIU is gone too, and the container
is either frozen or runs; the caller thaws it, which is the way back.

CRIU is driven directly, not through `runc checkpoint`: that saves 25 to 30 ms, and it is the only
way to dump a container with a stopped task.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from loguru import logger

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded
from transship.common.idle_timeout import idle_timeout
from transship.criu import externals, failures
from transship.criu.failures import CheckpointFailed
from transship.criu.hidden_memory import preload
from transship.criu.hidden_memory.preload import NothingHidden
from transship.criu.options import (
    DUMP_CONFIG_NAME,
    DUMP_LOG_NAME,
    DumpRequest,
    Pages,
    dump_options,
    lazy_dump_config,
)
from transship.criu.rpc import Kind, Request
from transship.criu.worker import CriuFailed, OnNotify, Worker
from transship.linux.freezer import FREEZE_TIMEOUT_SECONDS, Freezer, FreezerState, freezer_of
from transship.linux.processes import lookup

__all__ = ["Dump", "DumpRequest", "Dumper", "Pages"]

ABORT_TIMEOUT_SECONDS = 5.0
"""For CRIU to undo what it did to the container's tasks, once its page stream is broken."""


@dataclass(frozen=True)
class Dump:
    """A complete dump, `image_bytes` on disk; criu_seconds is CRIU's share of the time."""

    images: Path
    criu_seconds: float
    image_bytes: int


class Dumper:
    """One dump, from what can be done before the freeze to the end of CRIU. Always close it.

    Tasks are stopped by the cgroup's freezer. CRIU then seizes each with ptrace, thaws the cgroup
    while it holds them, and freezes it again at the end: nothing runs in between.

    With a stopped task (SIGSTOP, job control) in a v1 freezer that is impossible: ptrace waits,
    without a deadline, for the frozen task to wake up. Then CRIU seizes the running tasks at
    `freeze`, and waits, with all of them in its hands, for `dump`; at its end (`post-dump`) the
    cgroup is frozen before CRIU lets go of them.
    """

    def __init__(
        self,
        request: DumpRequest,
        *,
        criu: Worker,
        criu_end: socket.socket,
        hidden_memory: NothingHidden,
    ) -> None:
        self._request = request
        self._freezer = freezer_of(request.layout.cgroup(request.container))
        self._criu = criu
        self._hidden_memory = hidden_memory
        self._frozen = False
        self._stopped: tuple[int, ...] = ()
        self._seized, self._may_dump = asyncio.Event(), asyncio.Event()
        self._asking: asyncio.Task[None] | None = None
        self._page_fd = criu_end.fileno()
        criu_end.close()  # CRIU has its own by now

    @classmethod
    async def ready(cls, request: DumpRequest) -> Self:
        """Start CRIU.

        Raises CheckpointFailed when the container's memory has not all come from its last move.
        """
        freezer = freezer_of(request.layout.cgroup(request.container))
        await asyncio.to_thread(failures.require_no_missing_pages, freezer.processes())
        criu_end = _hung_up()
        hidden_memory = _hidden_memory(request, freezer.processes)
        try:
            await hidden_memory.start_survey()
            spec = externals.read_spec(request.layout.bundle(request.container))
            network = externals.network(spec)
            criu = await Worker.start(
                pass_fds=(criu_end.fileno(),),
                network=network,
                environment=hidden_memory.environment,
            )
        except BaseException:
            hidden_memory.close()
            criu_end.close()
            raise
        return cls(request, criu=criu, criu_end=criu_end, hidden_memory=hidden_memory)

    async def freeze(self) -> None:
        """Stop all tasks of the container; it may be frozen already. Raises DeadlineExceeded."""
        await self._freezer.freeze()
        self._frozen = True
        self._stopped = self._freezer.stopped_tasks()
        if not self._stopped or self._freezer.unified:
            return
        self._freezer.thaw()
        self._asking = asyncio.create_task(self._ask(None, self._answer))
        seized = asyncio.create_task(self._seized.wait())
        try:
            async with asyncio.timeout(FREEZE_TIMEOUT_SECONDS):
                await asyncio.wait({self._asking, seized}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError as e:
            reason = Reason.FREEZE_TIMED_OUT
            raise DeadlineExceeded("freezing by ptrace", reason=reason, hint=reason.hint) from e
        finally:
            seized.cancel()

    async def dump(self) -> Dump:
        """Dump the container. What `freeze` could not do is done or reported here.

        Raises CheckpointFailed. A cancel or the deadline ends CRIU in a way that keeps the
        container's connections (see `close`).
        """
        request = self._request
        if not self._frozen:
            await self.freeze()  # frozen by other hands: a stopped task may hide in there
        self._hidden_memory.hide()
        asked = time.monotonic()
        self._may_dump.set()
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(self._freezer, None))
        try:
            async with idle_timeout(request.timeout_seconds, self._written):
                await self._asking
        except CriuFailed as e:
            raise _failed(self._log, e) from e
        except TimeoutError as e:
            reason, seconds = Reason.DUMP_TIMED_OUT, request.timeout_seconds
            await self.close()
            raise failures.timed_out(
                self._log, doing="dumping", reason=reason, seconds=seconds
            ) from e
        except BaseException:
            await self.close()
            raise
        criu_seconds = time.monotonic() - asked
        _require_frozen(self._freezer)
        await self._hidden_memory.complete_images(self._images, lookup(self._freezer.processes()))
        return Dump(
            images=self._images,
            criu_seconds=criu_seconds,
            image_bytes=await self._written(),
        )

    async def _written(self) -> int:
        """Bytes in images so far: CRIU writes shared memory there, at 1 GB/s or so."""
        with os.scandir(self._images) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())

    @property
    def _images(self) -> Path:
        return self._request.layout.images(self._request.container)

    @property
    def _log(self) -> Path:
        return self._images / "work" / DUMP_LOG_NAME

    async def _ask(self, freezer: Freezer | None, on_notify: OnNotify | None) -> None:
        layout, container = self._request.layout, self._request.container
        state = externals.read_runc_state(layout.runc_root, container)
        with (
            externals.opened(self._images) as images_fd,
            externals.opened(self._images / "work") as work_fd,
        ):
            externals.write_descriptors(self._images, state.external_descriptors)
            options = dump_options(
                layout,
                container,
                pid=state.init_process_pid,
                freezer=freezer,
                images_fd=images_fd,
                work_fd=work_fd,
                config=self._configure(),
            )
            await self._criu.ask(Request(kind=Kind.DUMP, options=options), on_notify=on_notify)
        await self._criu.wait()

    def _configure(self) -> Path | None:
        if self._request.pages is not Pages.LAZY:
            return None
        path = self._images / "work" / DUMP_CONFIG_NAME
        path.write_text(lazy_dump_config(self._page_fd))
        return path

    async def _answer(self, stage: str) -> None:
        """Let CRIU go on from a stage.

        `query-ext-files` is the first with all tasks in its hands (`network-lock` comes before it,
        but not for a CRIU in the container's network namespace).
        """
        if stage == "query-ext-files":
            self._seized.set()
            await self._may_dump.wait()
        if stage == "post-dump":
            self._freezer.request_freeze()
            _require_frozen(self._freezer)

    async def close(self) -> None:
        """End CRIU, also in the middle of a dump, without harm to the container.

        A CRIU that is killed leaves its own code in the container's tasks, and their connections
        in repair mode: seen, the container died of it. One whose answer fails undoes all that it
        did and ends by itself; so that is how it is ended.
        """
        self._hidden_memory.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        if not await self._ends():
            self._freezer.thaw()  # a CRIU that waits in ptrace for a frozen task goes on then
            if not await self._ends():
                container = self._request.container
                logger.bind(container=container).error("killing CRIU in the middle of a dump")
                await self._criu.kill()

    async def _ends(self) -> bool:
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_SECONDS):
                await self._criu.wait()
        except TimeoutError:
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _hidden_memory(request: DumpRequest, pids: preload.Pids) -> NothingHidden:
    if request.pages is not Pages.LAZY:
        return NothingHidden()
    return preload.hidden_memory(request.layout.images(request.container) / "work" / "hidden", pids)


def _hung_up() -> socket.socket:
    """A connection that the other side has left already."""
    other, here = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    other.close()
    return here


def _require_frozen(freezer: Freezer) -> None:
    if freezer.state() is not FreezerState.FROZEN:
        raise CheckpointFailed(
            "dumping: the container is not frozen after its dump", reason=Reason.NOT_FROZEN
        )


def _failed(log: Path, cause: CriuFailed) -> CheckpointFailed:
    error = cause.first_error or cause.message
    return failures.from_log(log, doing="dumping", otherwise=Reason.DUMP_FAILED, error=error)
