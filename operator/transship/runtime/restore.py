"""Restoring a container held: complete, but not allowed to run before `resume`.

What holds after `restore_held` returned: the container is frozen, nothing of it has run, and it
stays so whoever dies. After any failure nothing of it is left but its files and images.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.runtime import (
    cgroups,
    conmon,
    criu,
    criu_log,
    externals,
    failures,
    hold,
    mounts,
)
from transship.runtime.checkpoint import Pages
from transship.runtime.conmon import Console
from transship.runtime.failures import CheckpointFailed
from transship.runtime.freezer import Freezer, FreezerState, freezer_of
from transship.runtime.layout import Layout
from transship.runtime.processes import descendants
from transship.runtime.runc import Runc

LOG_NAME = "restore.log"
RUNC_OPTIONS = ("--manage-cgroups-mode=ignore", "--tcp-established", "--file-locks")
END_TIMEOUT_SECONDS = 10.0
END_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class RestoreRequest:
    """A container whose bundle, files and images are all in place, and its network namespace.

    LAZY: somebody who listens on `lazy-pages.socket` in the working folder gives it its memory.
    """

    container: str
    layout: Layout
    console: Console
    timeout_seconds: float
    pages: Pages = Pages.IN_IMAGES


@dataclass(frozen=True)
class Restored:
    """A held copy; `pid` is its process 1, seen from the node."""

    pid: int
    seconds: float


async def restore_held(request: RestoreRequest) -> Restored:
    """Restore through conmon and runc. Raises CheckpointFailed."""
    began = time.monotonic()
    work = request.layout.images(request.container) / "work"
    log = work / LOG_NAME
    try:
        _prepare(request, work=work)
        pid = await _launch(request, work=work)
        _require_held(freezer_of(request.layout, request.container))
    except DeadlineExceeded as e:
        await discard(request.layout, request.container)
        seconds = request.timeout_seconds
        raise failures.timed_out(
            log, doing="restoring", reason=Reason.RESTORE_TIMED_OUT, seconds=seconds
        ) from e
    except CheckpointFailed:
        await discard(request.layout, request.container)
        raise
    except TransshipError as e:
        await discard(request.layout, request.container)
        raise failures.from_log(
            log, doing="restoring", otherwise=Reason.RESTORE_FAILED, said=e.message
        ) from e
    except BaseException:
        await discard(request.layout, request.container)
        raise
    return Restored(pid, seconds=time.monotonic() - began)


def resume(layout: Layout, container: str) -> None:
    """Let a held copy run: one write, within which the kernel wakes all tasks."""
    freezer_of(layout, container).thaw()


async def discard(layout: Layout, container: str) -> None:
    """End a held or half restored copy without letting it run, and clear what CRIU left mounted.

    Its files, bundle and images stay. It can be repeated, and there need be nothing to discard.
    """
    if conmon.alive(layout, container) and not (layout.runc_root / container).exists():
        await _end_supervisor(layout, container)  # of an agent that died: runc has not begun yet
    await _end_members(layout, container)
    for place in (layout.images(container), layout.runc_root / container):
        await asyncio.to_thread(_unmount_leftovers, place)
    if (layout.runc_root / container).exists():
        await Runc(layout.runc_root).delete(container)
    with contextlib.suppress(OSError):
        _refuge(freezer_of(layout, container)).rmdir()


def _prepare(request: RestoreRequest, *, work: Path) -> None:
    layout, container = request.layout, request.container
    freezer = freezer_of(layout, container)
    refuge = _refuge(freezer)
    cgroups.create(cgroups.detect(), layout.cgroup_parent)
    refuge.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    (work / LOG_NAME).unlink(missing_ok=True)
    script = work / "hold"
    script.write_text(hold.script(freezer, refuge=refuge))
    script.chmod(0o700)
    config = hold.configuration(script, devices=layout.devices(container))
    layout.criu_config(container).write_text(config)


def _refuge(freezer: Freezer) -> Path:
    """Where CRIU is moved to: beside the container's cgroup, for this restore alone."""
    return freezer.path.with_name(f"{freezer.path.name}.criu")


async def _launch(request: RestoreRequest, *, work: Path) -> int:
    """Start conmon, runc and CRIU; when this raises, none of the three is left."""
    images = request.layout.images(request.container)
    options = [*RUNC_OPTIONS, f"--work-path={work}"]
    if request.pages is Pages.LAZY:
        options.append("--lazy-pages")
    network = externals.network(externals.read_spec(request.layout.bundle(request.container)))
    launching = asyncio.ensure_future(
        conmon.launch(
            request.layout,
            container_id=request.container,
            console=request.console,
            extra=["--restore", str(images), *(f"--runtime-opt={option}" for option in options)],
            before=criu.inside(network),
            timeout_seconds=request.timeout_seconds,
        )
    )
    try:
        return await asyncio.shield(launching)
    except DeadlineExceeded:
        await _end_supervisor(request.layout, request.container)
        raise
    except asyncio.CancelledError:
        # half started it cannot be found and ended, and would restore a copy after all
        await asyncio.wait([launching])
        if launching.exception() is not None:
            await _end_supervisor(request.layout, request.container)
        raise


async def _end_supervisor(layout: Layout, container: str) -> None:
    """SIGKILL to a conmon that hangs in a restore, and to the runc and CRIU that it has started."""
    with contextlib.suppress(ProcessLookupError):
        pid = conmon.conmon_pid(layout, container)
        for one in (pid, *descendants(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def _require_held(freezer: Freezer) -> None:
    if freezer.state() is not FreezerState.FROZEN:
        raise CheckpointFailed(
            "restoring: the copy is not frozen after its restore", reason=Reason.NOT_HELD
        )


async def _end_members(layout: Layout, container: str) -> None:
    """SIGKILL to the copy and to the CRIU that restores it, until none is left."""
    freezer = freezer_of(layout, container)
    refuge = Freezer(_refuge(freezer), unified=freezer.unified)
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while members := (*refuge.processes(), *freezer.processes()):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cgroups.thaw(cgroups.detect(), layout.cgroup(container))
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"ending the restored copy of {container}: some task stays")
        await asyncio.sleep(END_POLL_SECONDS)


def _unmount_leftovers(place: Path) -> None:
    """Take off what a runc or CRIU that was killed leaves mounted: `criu-root`, `.criu.cgyard.*`.

    `runc delete` removes its state recursively, and through `criu-root` the container's whole root
    file system with it (seen): so this comes first, and its failure is not passed over.
    """
    for point in mounts.mounts_below(place):
        try:
            mounts.unmount(point)
        except OSError as e:
            raise TransshipError(
                f"unmounting {point}: {e.strerror}", reason=Reason.STILL_MOUNTED
            ) from e


def log_tail(layout: Layout, container: str) -> str:
    """The end of the last restore's log."""
    path = layout.images(container) / "work" / LOG_NAME
    return criu_log.log_tail(criu_log.read_log(path))
