"""Dumping a frozen container: its memory to a page server (or a directory), the rest to small images.

What holds after `dump` returned: CRIU is gone, the images are complete, the container is Frozen,
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

from loguru import logger

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime import criu_log, externals, runc_state
from transship.runtime.criu import CriuFailed, Worker
from transship.runtime.criu_rpc import CgroupMode, Kind, NetworkLock, Options, PageServerInfo, Request
from transship.runtime.directories import opened
from transship.runtime.freezer import Freezer, FreezerState
from transship.runtime.layout import Layout
from transship.runtime.page_server import TlsFiles
from transship.runtime.sockets import shut_connections

LOG_NAME = "dump.log"

GHOST_LIMIT_BYTES = 256 << 20
"""Of a deleted file that is still open; CRIU's own limit of 1 MiB refuses rotated logs."""

ABORT_TIMEOUT_SECONDS = 3.0
"""For CRIU to undo what it did to the container's tasks once its page stream is shut."""


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
class RemotePages:
    """The target's page server."""

    address: str
    port: int
    tls: TlsFiles | None


@dataclass(frozen=True)
class DumpRequest:
    """What to dump: a running container of runc whose freezer says Frozen. pages None is local."""

    container: str
    layout: Layout
    freezer: Freezer
    pages: RemotePages | None
    timeout_seconds: float


@dataclass(frozen=True)
class Dump:
    """A complete dump. `stopped` are tasks that a signal had stopped (they stay so when restored)."""

    images: Path
    stopped: tuple[int, ...]
    seconds: float


class CheckpointFailed(TransshipError):
    """A dump or restore that did not come about; `log_tail` is the end of CRIU's log."""

    reason = Reason.DUMP_FAILED

    def __init__(self, message: str, *, reason: Reason, hint: str = "", log_tail: str = "") -> None:
        super().__init__(message, reason=reason, hint=hint)
        self.log_tail = log_tail


async def dump(request: DumpRequest, *, worker: Worker | None = None) -> Dump:
    """Dump a frozen container. `worker` is a CRIU that was started before the freeze.

    Raises CheckpointFailed. A cancel or the deadline ends CRIU in a way that keeps the container's
    connections (see _abort).
    """
    began = time.monotonic()
    images = request.layout.images(request.container)
    work = images / "work"
    state = runc_state.read(request.layout.runc_root, request.container)
    stopped = request.freezer.stopped_tasks()
    seizing = _seizing(request.freezer, stopped)
    criu = worker or await Worker.start()
    try:
        with opened(images) as images_fd, opened(work) as work_fd:
            _note_descriptors(images, state.external_descriptors)
            options = _options(
                request, pid=state.init_process_pid, seizing=seizing, fds=(images_fd, work_fd)
            )
            async with asyncio.timeout(request.timeout_seconds):
                await _ask(criu, options, request.freezer, seizing)
    except CriuFailed as e:
        await criu.kill()
        raise _failure(work, e) from e
    except BaseException as e:
        await _abort(criu, request)
        if isinstance(e, TimeoutError):
            raise _timed_out(request, work) from e
        raise
    _require_frozen(request.freezer)
    return Dump(images=images, stopped=stopped, seconds=time.monotonic() - began)


def _seizing(freezer: Freezer, stopped: tuple[int, ...]) -> Seizing:
    return Seizing.BY_PTRACE if stopped and not freezer.unified else Seizing.BY_FREEZER


async def _ask(criu: Worker, options: Options, freezer: Freezer, seizing: Seizing) -> None:
    async def on_notice(name: str) -> None:
        if name == "post-dump" and seizing is Seizing.BY_PTRACE:
            freezer.request_freeze()
            _require_frozen(freezer)

    if seizing is Seizing.BY_PTRACE:
        freezer.thaw()
    await criu.ask(Request(kind=Kind.DUMP, options=options), on_notice=on_notice)
    await criu.wait()


def _options(
    request: DumpRequest, *, pid: int, seizing: Seizing, fds: tuple[int, int]
) -> Options:
    spec = externals.read_spec(request.layout.bundle(request.container))
    pages = request.pages
    tls = None if pages is None else pages.tls
    return Options(
        images_dir_fd=fds[0],
        work_dir_fd=fds[1],
        log_file=LOG_NAME,
        log_level=criu_log.LOG_LEVEL,
        pid=pid,
        root=str(request.layout.rootfs(request.container)),
        external=externals.externals(spec, root=Path(f"/proc/{pid}/root")),
        leave_running=True,  # as far as the freezer lets it: the way back
        freeze_cgroup=str(request.freezer.path) if seizing is Seizing.BY_FREEZER else None,
        notify_scripts=seizing is Seizing.BY_PTRACE,
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
        page_server=None if pages is None else PageServerInfo(pages.address, pages.port),
        tls=None if tls is None else True,
        tls_ca=None if tls is None else str(tls.ca),
        tls_certificate=None if tls is None else str(tls.certificate),
        tls_key=None if tls is None else str(tls.key),
    )


def _note_descriptors(images: Path, descriptors: tuple[str, ...] | None) -> None:
    """`runc restore` connects the standard streams by this file, which `runc checkpoint` writes."""
    (images / "descriptors.json").write_text(json.dumps(descriptors))


def _require_frozen(freezer: Freezer) -> None:
    if freezer.state() is not FreezerState.FROZEN:
        raise CheckpointFailed(
            "dumping: the container is not frozen after its dump", reason=Reason.NOT_FROZEN
        )


async def _abort(criu: Worker, request: DumpRequest) -> None:
    """End a CRIU in the middle of a dump without harm to the container.

    A CRIU that is killed leaves the container's TCP connections in repair mode, which is their end.
    One whose page stream breaks undoes all it did, so the stream is shut first. The freezer must
    let the tasks move for that: CRIU runs code of its own in them.
    """
    pages = request.pages
    if pages is not None:
        shut_connections(criu.pid, address=pages.address, port=pages.port)
    try:
        async with asyncio.timeout(ABORT_TIMEOUT_SECONDS):
            await criu.wait()
    except TimeoutError:
        logger.bind(container=request.container).warning("killing CRIU in the middle of a dump")
        await _kill(criu, request.freezer)


async def _kill(criu: Worker, freezer: Freezer) -> None:
    try:
        await criu.kill()
    except DeadlineExceeded:
        freezer.thaw()
        await criu.kill()


def _failure(work: Path, cause: CriuFailed) -> CheckpointFailed:
    log = criu_log.read_log(work / LOG_NAME)
    found = criu_log.diagnose(log, otherwise=Reason.DUMP_FAILED)
    message = f"dumping: {found.message}" if log else f"dumping: {cause.first_error or cause}"
    return CheckpointFailed(message, reason=found.reason, hint=found.hint, log_tail=found.tail)


def _timed_out(request: DumpRequest, work: Path) -> CheckpointFailed:
    reason = Reason.DUMP_TIMED_OUT
    return CheckpointFailed(
        f"dumping: not done in {request.timeout_seconds:g} s",
        reason=reason,
        hint=reason.hint,
        log_tail=criu_log.log_tail(criu_log.read_log(work / LOG_NAME)),
    )
