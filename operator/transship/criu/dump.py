"""Dumps a frozen container to images, with or without its private memory.

After `dump` has returned, CRIU has ended, the images are complete, the container is frozen, and no
task has run since the dump. After a failure CRIU has ended too, and the container is frozen or
runs; the caller thaws it to roll back.

The dump calls CRIU directly, not `runc checkpoint`. That saves 25 to 30 ms, and only so a container
with a stopped task can be dumped.
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
"""For CRIU to undo what it did to the container's tasks, once its channel is closed."""


@dataclass(frozen=True)
class Dump:
    """A complete dump: `image_bytes` in files, made in `criu_seconds` by CRIU."""

    images: Path
    criu_seconds: float
    image_bytes: int


class Dumper:
    """One dump, from the preparation before the freeze to the end of CRIU. Always close it.

    The cgroup's freezer stops the tasks. CRIU then seizes each with ptrace, thaws the cgroup while
    they are seized, and freezes it again at the end, so no task runs in between.

    That fails for a stopped task (SIGSTOP, job control) in a v1 freezer: ptrace waits for the
    frozen task to wake up, without a deadline. For such a container, CRIU seizes the running tasks
    at `freeze` and waits for `dump`; at `post-dump` the cgroup is frozen before CRIU detaches.
    """

    def __init__(
        self,
        request: DumpRequest,
        *,
        criu: Worker,
        hung_up: socket.socket,
        hidden_memory: NothingHidden,
    ) -> None:
        self._request = request
        self._freezer = freezer_of(request.layout.cgroup(request.container))
        self._criu = criu
        self._hidden_memory = hidden_memory
        self._frozen = False
        self._stopped: tuple[int, ...] = ()
        self._seized, self._may_dump = asyncio.Event(), asyncio.Event()
        self._request_task: asyncio.Task[None] | None = None
        self._page_fd = hung_up.fileno()
        # CRIU has its own copy
        hung_up.close()

    @classmethod
    async def ready(cls, request: DumpRequest) -> Self:
        """Start CRIU and the survey of the memory to hide.

        Raises CheckpointFailed while memory of the container's last migration is missing.
        """
        freezer = freezer_of(request.layout.cgroup(request.container))
        await asyncio.to_thread(failures.require_no_missing_pages, freezer.processes())
        hung_up = _hung_up_socket()
        hidden_memory = _hidden_memory(request, freezer.processes)
        try:
            await hidden_memory.start_survey()
            spec = externals.read_spec(request.layout.bundle(request.container))
            network = externals.network(spec)
            criu = await Worker.start(
                pass_fds=(hung_up.fileno(),),
                network=network,
                environment=hidden_memory.environment,
            )
        except BaseException:
            hidden_memory.close()
            hung_up.close()
            raise
        return cls(request, criu=criu, hung_up=hung_up, hidden_memory=hidden_memory)

    async def freeze(self) -> None:
        """Stop all tasks of the container, which may be frozen already. Raises DeadlineExceeded."""
        await self._freezer.freeze()
        self._frozen = True
        self._stopped = self._freezer.stopped_tasks()
        if not self._stopped or self._freezer.unified:
            return
        self._freezer.thaw()
        self._request_task = asyncio.create_task(self._send_request(None, self._on_notify))
        seized = asyncio.create_task(self._seized.wait())
        try:
            async with asyncio.timeout(FREEZE_TIMEOUT_SECONDS):
                await asyncio.wait(
                    {self._request_task, seized}, return_when=asyncio.FIRST_COMPLETED
                )
        except TimeoutError as e:
            reason = Reason.FREEZE_TIMED_OUT
            raise DeadlineExceeded("freezing by ptrace", reason=reason, hint=reason.hint) from e
        finally:
            seized.cancel()

    async def dump(self) -> Dump:
        """Dump the container, and freeze it first if `freeze` was not called.

        Raises CheckpointFailed. After a cancel or the deadline, CRIU ends in a way that keeps the
        container's connections (see `close`).
        """
        request = self._request
        if not self._frozen:
            # the caller froze the cgroup itself; this looks for stopped tasks
            await self.freeze()
        self._hidden_memory.hide()
        began = time.monotonic()
        self._may_dump.set()
        if self._request_task is None:
            self._request_task = asyncio.create_task(self._send_request(self._freezer, None))
        try:
            async with idle_timeout(request.timeout_seconds, self._image_bytes):
                await self._request_task
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
        criu_seconds = time.monotonic() - began
        _require_frozen(self._freezer)
        await self._hidden_memory.complete_images(self._images, lookup(self._freezer.processes()))
        return Dump(
            images=self._images,
            criu_seconds=criu_seconds,
            image_bytes=await self._image_bytes(),
        )

    async def _image_bytes(self) -> int:
        """Count the bytes in the images so far; CRIU writes shared memory at about 1 GB/s."""
        with os.scandir(self._images) as entries:
            return sum(entry.stat().st_size for entry in entries if entry.is_file())

    @property
    def _images(self) -> Path:
        return self._request.layout.images(self._request.container)

    @property
    def _log(self) -> Path:
        return self._images / "work" / DUMP_LOG_NAME

    async def _send_request(self, freezer: Freezer | None, on_notify: OnNotify | None) -> None:
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

    async def _on_notify(self, script: str) -> None:
        """Return when CRIU may continue after a notification.

        `query-ext-files` is the first notification after all tasks are seized (`network-lock` comes
        earlier, but not for a CRIU in the container's network namespace).
        """
        if script == "query-ext-files":
            self._seized.set()
            await self._may_dump.wait()
        if script == "post-dump":
            self._freezer.request_freeze()
            _require_frozen(self._freezer)

    async def close(self) -> None:
        """End CRIU, also in the middle of a dump, without harm to the container.

        A killed CRIU leaves its own code in the container's tasks, and their connections in repair
        mode; a container has died of that. So the channel is closed: CRIU then fails, undoes all
        that it has done, and ends.
        """
        self._hidden_memory.close()
        if self._request_task is not None:
            self._request_task.cancel()
            await asyncio.wait([self._request_task])
        if not await self._has_ended():
            # CRIU may wait in ptrace for a frozen task
            self._freezer.thaw()
            if not await self._has_ended():
                container = self._request.container
                logger.bind(container=container).error("killing CRIU in the middle of a dump")
                await self._criu.kill()

    async def _has_ended(self) -> bool:
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


def _hung_up_socket() -> socket.socket:
    """A socket whose peer is closed."""
    peer, here = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.close()
    return here


def _require_frozen(freezer: Freezer) -> None:
    if freezer.state() is not FreezerState.FROZEN:
        raise CheckpointFailed(
            "dumping: the container is not frozen after its dump", reason=Reason.NOT_FROZEN
        )


def _failed(log: Path, cause: CriuFailed) -> CheckpointFailed:
    error = cause.first_error or cause.message
    return failures.from_log(log, doing="dumping", otherwise=Reason.DUMP_FAILED, error=error)
