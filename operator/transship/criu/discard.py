"""Ends a copy that is held or half restored, without letting it run.

The copy may be in any state: an agent that died has left it, or a restore has failed.
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
    """End a held or half restored copy, and unmount what runc and CRIU have left mounted.

    The container's files, bundle and images stay. Can be repeated, also without a copy.
    """
    freezer = freezer_of(layout.cgroup(container))
    await _end_members(freezer)
    await _end_supervisor(layout, container)
    # runc may have started tasks in the meantime
    await _end_members(freezer)
    # and the gate may have frozen the empty cgroup, in which runc refuses to start anything
    with contextlib.suppress(NotFound):
        freezer.thaw()
    rootfs = layout.rootfs(container).resolve()
    for place in (layout.images(container), layout.runc_root / container, rootfs):
        await asyncio.to_thread(_unmount_leftovers, place, keep=rootfs)
    if (layout.runc_root / container).exists():
        await Runc(layout.runc_root).delete(container)
    cgroups.remove(cgroups.detect(), layout.criu_cgroup(container))


async def _end_members(freezer: Freezer) -> None:
    """Kill the copy, and the gate and the CRIU that restore it, until none is left.

    The copy is frozen first, since a task runs on when its tracer dies. A frozen task that got
    SIGKILL dies when it is thawed, before it runs.
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
    """Kill the copy's conmon, and the runc and the gate that it has started."""
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
    """Unmount what a killed runc or CRIU has left mounted: `criu-root` and the mounts in it.

    `runc delete` removes its state recursively, and through such a mount it has deleted the files
    of a container. So this comes first, and its failure stops the discard.
    """
    for point in mounts.mounts_below(place):
        if point == keep:
            # the container's root file system itself
            continue
        try:
            mounts.unmount(point)
        except OSError as e:
            raise TransshipError(
                f"unmounting {point}: {e.strerror}", reason=Reason.STILL_MOUNTED
            ) from e
