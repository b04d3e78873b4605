"""The lab's control groups: one tree per lab in every hierarchy, v1 and v2.

A process cannot leave its cgroup by daemonizing or by losing its parent, so `down` finds all
processes of a lab by its tree.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import TransshipError

# the file in a lab's directory with the cgroup of its daemons
MARKER = "cgroup"
SERVERS = "servers"
KILL_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.01


def daemon_cgroup(state_dir: Path) -> str | None:
    """The cgroup of the daemons of this directory's lab, or None without a record."""
    try:
        return (state_dir / MARKER).read_text().strip()
    except FileNotFoundError:
        return None


def record_cgroup(state_dir: Path, cgroup: str) -> None:
    """Record the lab's cgroup, before it exists. Daemons that start from now on join it.

    They get a leaf: v2 allows no processes in a cgroup that delegates controllers.
    """
    (state_dir / MARKER).write_text(f"{cgroup}/{SERVERS}")


def hierarchies() -> list[Path]:
    """The mount points of all cgroup hierarchies."""
    mount_points: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind in {"cgroup", "cgroup2"} and fields[3] == "/":
            mount_points.append(Path(fields[4]))
    return mount_points


def freezer_hierarchy() -> Path:
    """The hierarchy of the freezer. It alone has all tasks, so one look at it is enough."""
    roots = hierarchies()
    return next((root for root in roots if root.name == "freezer"), roots[0])


def create(cgroup: str) -> None:
    """Create it with its parents in every hierarchy, so that processes can join."""
    for root in hierarchies():
        path = root
        for part in Path(cgroup.strip("/")).parts:
            _delegate(path)
            path /= part
            path.mkdir(exist_ok=True)
            _inherit_cpuset(path)


def join(cgroup: str | None, *, pid: int) -> None:
    """Move a process, and so its future children, into a cgroup of every hierarchy."""
    if cgroup is None:
        return
    create(cgroup)
    for root in hierarchies():
        (root / cgroup.strip("/") / "cgroup.procs").write_text(str(pid))


def processes(cgroup: str, *, root: Path | None = None) -> set[int]:
    """The pids in it or below it, in any hierarchy, or in the one at `root`."""
    pids: set[int] = set()
    for group in _groups(cgroup) if root is None else _groups_below(root / cgroup.strip("/")):
        with contextlib.suppress(FileNotFoundError, OSError):
            pids.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
    # 0 stands for processes of other pid namespaces
    return pids - {0}


def kill(cgroup: str) -> None:
    """Kill all processes in it or below it, frozen ones too, and wait for their end."""
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while pids := processes(cgroup):
        if os.getpid() in pids:
            raise TransshipError(f"killing cgroup {cgroup}: this very process is in it")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # v1: a frozen process dies of SIGKILL only after the thaw, without running any further
        _thaw(cgroup)
        if time.monotonic() > deadline:
            raise TransshipError(
                f"killing cgroup {cgroup}: {len(pids)} processes do not end",
                reason=Reason.UNKILLABLE,
            )
        # v1 does not report an empty cgroup
        time.sleep(POLL_SECONDS)


def remove(cgroup: str) -> None:
    """Remove the empty tree, children first."""
    for group in _groups(cgroup):
        with contextlib.suppress(FileNotFoundError):
            _remove_group(group)


def exists(cgroup: str) -> bool:
    return any((root / cgroup.strip("/")).is_dir() for root in hierarchies())


def _groups(cgroup: str) -> Iterator[Path]:
    """The directories of the tree in every hierarchy, children before parents."""
    for root in hierarchies():
        yield from _groups_below(root / cgroup.strip("/"))


def _groups_below(top: Path) -> Iterator[Path]:
    for path, _, _ in os.walk(top, topdown=False):
        yield Path(path)


def _remove_group(group: Path) -> None:
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while True:
        try:
            group.rmdir()
            return
        except OSError as e:
            # the kernel releases the cgroup a moment after the last process has ended
            if e.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _thaw(cgroup: str) -> None:
    for group in _groups(cgroup):
        for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                file = group / name
                if file.exists():
                    file.write_text(value)


def _delegate(group: Path) -> None:
    """v2: delegate all controllers to the children."""
    switch = group / "cgroup.subtree_control"
    if not switch.exists():
        return
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            switch.write_text(f"+{controller}")


def _inherit_cpuset(group: Path) -> None:
    """v1: processes cannot join an empty cpuset, and a new one is empty."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, parent = group / name, group.parent / name
        if not (group / "cgroup.clone_children").exists() or not own.exists():
            continue
        if not own.read_text().strip():
            own.write_text(parent.read_text())
