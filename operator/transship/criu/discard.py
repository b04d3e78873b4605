"""Ending a copy that was being restored, or that is held, without letting it run.

What it finds may be in any state: an agent that died has left it, or a restore that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, NotFound, TransshipError
from transship.criu.gate.client import criu_freezer
from transship.linux import cgroups, mounts, pidfds
from transship.linux.freezer import Freezer, freezer_of
from transship.linux.processes import descendants
from transship.runtime import conmon
from transship.runtime.layout import Layout
from transship.runtime.runc import Runc

END_TIMEOUT_SECONDS = 10.0
END_POLL_SECONDS = 0.005


async def discard(layout: Layout, container: str) -> None:
    """End a held or half restored copy, and clear what runc and CRIU have left mounted.

    Its files, bundle and images stay. It can be repeated, and there need be nothing to discard.
    """
    freezer = freezer_of(layout.cgroup(container))
    await _end_members(freezer)
    await _end_supervisor(layout, container)
    await _end_members(freezer)  # runc may just have begun
    rootfs = layout.rootfs(container).resolve()
    for place in (layout.images(container), layout.runc_root / container, rootfs):
        await asyncio.to_thread(_unmount_leftovers, place, keep=rootfs)
    if (layout.runc_root / container).exists():
        await Runc(layout.runc_root).delete(container)
    cgroups.remove(cgroups.detect(), layout.criu_cgroup(container))


async def _end_members(freezer: Freezer) -> None:
    """SIGKILL to the copy, and to the gate and the CRIU that restore it, until none is left.

    Frozen first: a task that loses its tracer goes on. It dies when it is thawed, before that.
    """
    criu = criu_freezer(freezer)
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while freezer.processes() or criu.processes():
        with contextlib.suppress(NotFound):
            freezer.request_freeze()
        _kill(freezer.processes())
        _kill(criu.processes())
        with contextlib.suppress(NotFound):
            freezer.thaw()
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"ending the copy in {freezer.path}: some task stays")
        await asyncio.sleep(END_POLL_SECONDS)


async def _end_supervisor(layout: Layout, container: str) -> None:
    """SIGKILL to the copy's conmon, and to the runc and the gate that it has started."""
    if not conmon.alive(layout, container):
        return
    with contextlib.suppress(ProcessLookupError):
        pid = conmon.conmon_pid(layout, container)
        with pidfds.handle(pid) as process:
            _kill((pid, *descendants(pid)))
            await pidfds.ended(process, timeout_seconds=END_TIMEOUT_SECONDS)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _unmount_leftovers(place: Path, *, keep: Path) -> None:
    """Take off what a runc or CRIU that was killed leaves mounted: `criu-root`, mounts in it.

    `runc delete` removes its state recursively, and through what is mounted there other files
    (seen): so this comes first, and its failure is not passed over.
    """
    for point in mounts.mounts_below(place):
        if point == keep:
            continue  # the container's root file system itself
        try:
            mounts.unmount(point)
        except OSError as e:
            raise TransshipError(
                f"unmounting {point}: {e.strerror}", reason=Reason.STILL_MOUNTED
            ) from e
