"""Dumping a frozen container: memory to a page server (or a directory), the rest to small images.

What holds after `dump` returned: CRIU is gone, the images are complete, the container is frozen,
and nothing of it has run since the snapshot. After any failure CRIU is gone too, and the container
is either frozen or runs; the caller thaws it, which is the way back.

CRIU is driven directly, not through `runc checkpoint`: that saves 25 to 30 ms, and it is the only
way to dump a container with a stopped task (see Seizing).
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from loguru import logger

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded
from transship.runtime import criu_log, externals, failures, runc_state
from transship.runtime.criu import CriuFailed, Worker
from transship.runtime.criu_rpc import (
    CgroupMode,
    Kind,
    NetworkLock,
    Options,
    PageServerInfo,
    Request,
)
from transship.runtime.directories import opened
from transship.runtime.failures import CheckpointFailed
from transship.runtime.freezer import Freezer, FreezerState, freezer_of
from transship.runtime.layout import Layout
from transship.runtime.page_stream import PageStream, RemotePages, open_stream

LOG_NAME = "dump.log"

GHOST_LIMIT_BYTES = 256 << 20
"""Of a deleted file that is still open; CRIU's own limit of 1 MiB refuses rotated logs."""

ABORT_TIMEOUT_SECONDS = 5.0
"""For CRIU to undo what it did to the container's tasks, once its page stream is broken."""


class Seizing(Enum):
    """How CRIU gets hold of the tasks, which depends on the freezer and on stopped tasks.

    Of a cgroup that is frozen already CRIU seizes the tasks one by one, thaws it while they are in
    ptrace's hands, and freezes it again at the end: by FREEZER nothing runs in between.

    Under a v1 freezer a task that SIGSTOP has stopped cannot be seized: ptrace waits, without a
    deadline, for the frozen task to wake up. So the cgroup is thawed, CRIU seizes BY_PTRACE (the
    tasks run on for some milliseconds, before the snapshot), and at CRIU's `post-dump`, when all
    tasks are still in its hands, the cgroup is frozen again. v2 has no such problem.
    """

    BY_FREEZER = "ByFreezer"
    BY_PTRACE = "ByPtrace"


@dataclass(frozen=True)
class DumpRequest:
    """What to dump: a container that runc runs. pages None keeps the memory in the images."""

    container: str
    layout: Layout
    pages: RemotePages | None
    timeout_seconds: float


@dataclass(frozen=True)
class Dump:
    """A complete dump. `stopped` are tasks that a signal had stopped: restored, they still are."""

    images: Path
    stopped: tuple[int, ...]
    page_bytes: int
    seconds: float


class Dumper:
    """A CRIU and a page stream that stand ready before the freeze. For one dump, in a `with`."""

    def __init__(self, request: DumpRequest, *, criu: Worker, stream: PageStream | None) -> None:
        self._request = request
        self._freezer = freezer_of(request.layout, request.container)
        self._criu = criu
        self._stream = stream
        self._stream_fd = -1 if stream is None else stream.criu_end.fileno()
        if stream is not None:
            stream.criu_end.close()  # CRIU has its own by now; so its end shows on ours

    @classmethod
    async def ready(cls, request: DumpRequest) -> Self:
        """Start CRIU, and connect to the page server. Raises Unreachable when that is not there."""
        stream = None if request.pages is None else await open_stream(request.pages)
        try:
            fds = () if stream is None else (stream.criu_end.fileno(),)
            criu = await Worker.start(pass_fds=fds)
        except BaseException:
            if stream is not None:
                stream.close()
            raise
        return cls(request, criu=criu, stream=stream)

    async def dump(self) -> Dump:
        """Dump the container, which is frozen by now.

        Raises CheckpointFailed. A cancel or the deadline ends CRIU in a way that keeps the
        container's connections (see _abort).
        """
        began = time.monotonic()
        request = self._request
        images = request.layout.images(request.container)
        log = images / "work" / LOG_NAME
        stopped = self._freezer.stopped_tasks()
        try:
            async with asyncio.timeout(request.timeout_seconds):
                await self._ask(_seizing(self._freezer, stopped), images=images)
                sent = 0 if self._stream is None else await self._stream.finish()
        except CriuFailed as e:
            raise failures.from_log(
                log, doing="dumping", otherwise=Reason.DUMP_FAILED, said=e.first_error or e.message
            ) from e
        except TimeoutError as e:
            await self._abort()
            seconds = request.timeout_seconds
            raise failures.timed_out(
                log, doing="dumping", reason=Reason.DUMP_TIMED_OUT, seconds=seconds
            ) from e
        except BaseException:
            await self._abort()
            raise
        _require_frozen(self._freezer)
        return Dump(images, stopped, page_bytes=sent, seconds=time.monotonic() - began)

    async def _ask(self, seizing: Seizing, *, images: Path) -> None:
        request = self._request
        state = runc_state.read(request.layout.runc_root, request.container)

        async def on_notice(name: str) -> None:
            if name == "post-dump" and seizing is Seizing.BY_PTRACE:
                self._freezer.request_freeze()
                _require_frozen(self._freezer)

        with opened(images) as images_fd, opened(images / "work") as work_fd:
            _note_descriptors(images, state.external_descriptors)
            options = _options(
                request,
                pid=state.init_process_pid,
                freezer=self._freezer if seizing is Seizing.BY_FREEZER else None,
                fds=(images_fd, work_fd, self._stream_fd),
            )
            if seizing is Seizing.BY_PTRACE:
                self._freezer.thaw()
            await self._criu.ask(Request(kind=Kind.DUMP, options=options), on_notice=on_notice)
        await self._criu.wait()

    async def _abort(self) -> None:
        """End CRIU in the middle of a dump without harm to the container.

        A CRIU that is killed leaves the container's TCP connections in repair mode, which is their
        end. One whose page stream breaks undoes all it did and ends by itself.
        """
        if self._stream is not None:
            self._stream.close()
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_SECONDS):
                await self._criu.wait()
        except TimeoutError:
            container = self._request.container
            logger.bind(container=container).warning("killing CRIU in the middle of a dump")
            await self._kill()

    async def _kill(self) -> None:
        try:
            await self._criu.kill()
        except DeadlineExceeded:
            self._freezer.thaw()
            await self._criu.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End CRIU and the stream, whether or not there was a dump."""
        if self._stream is not None:
            self._stream.close()
        await self._kill()


def _seizing(freezer: Freezer, stopped: tuple[int, ...]) -> Seizing:
    return Seizing.BY_PTRACE if stopped and not freezer.unified else Seizing.BY_FREEZER


def _options(
    request: DumpRequest, *, pid: int, freezer: Freezer | None, fds: tuple[int, int, int]
) -> Options:
    """`freezer` is the one that CRIU may use; without it CRIU stops at post-dump for an answer."""
    spec = externals.read_spec(request.layout.bundle(request.container))
    images_fd, work_fd, stream_fd = fds
    return Options(
        images_dir_fd=images_fd,
        work_dir_fd=work_fd,
        log_file=LOG_NAME,
        log_level=criu_log.LOG_LEVEL,
        pid=pid,
        root=str(request.layout.rootfs(request.container)),
        external=externals.externals(spec, root=Path(f"/proc/{pid}/root")),
        leave_running=True,  # as far as the freezer lets it: the way back
        freeze_cgroup=None if freezer is None else str(freezer.path),
        notify_scripts=freezer is None,
        manage_cgroups=True,
        cgroup_mode=CgroupMode.IGNORE,  # runc makes them on the target
        # the container's packets are held outside of its namespace; CRIU's own lock costs 60 ms
        network_lock=NetworkLock.SKIP,
        tcp_established=True,
        external_unix_sockets=True,
        file_locks=True,
        link_remap=True,
        orphan_pts_master=True,
        ghost_limit=GHOST_LIMIT_BYTES,
        page_server=None if stream_fd < 0 else PageServerInfo(fd=stream_fd),
    )


def _note_descriptors(images: Path, descriptors: tuple[str, ...] | None) -> None:
    """`runc restore` connects the standard streams by this file, which `runc checkpoint` writes."""
    (images / "descriptors.json").write_text(json.dumps(descriptors))


def _require_frozen(freezer: Freezer) -> None:
    if freezer.state() is not FreezerState.FROZEN:
        raise CheckpointFailed(
            "dumping: the container is not frozen after its dump", reason=Reason.NOT_FROZEN
        )
