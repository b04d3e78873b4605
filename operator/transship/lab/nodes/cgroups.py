"""The lab's control groups: one tree per lab in every hierarchy, v1 and v2.

Membership survives whatever a process does (daemonizing, a lost parent, a crashed starter), so
the tree is how `down` finds and ends what is left of a lab.
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

MARKER = "cgroup"  # the file in a lab's directory that names its daemons' cgroup
SERVERS = "servers"
KILL_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.01


def daemon_cgroup(state_dir: Path) -> str | None:
    """The cgroup of the daemons of this directory's lab; None where no lab has claimed it."""
    try:
        return (state_dir / MARKER).read_text().strip()
    except FileNotFoundError:
        return None


def record_cgroup(state_dir: Path, cgroup: str) -> None:
    """Say which cgroup is the lab's, before there is one: its daemons join it from now on.

    They get a leaf of their own: v2 allows no processes in a cgroup that hands on controllers.
    """
    (state_dir / MARKER).write_text(f"{cgroup}/{SERVERS}")


def hierarchies() -> list[Path]:
    """The mount points of all cgroup hierarchies."""
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        if kind in {"cgroup", "cgroup2"} and fields[3] == "/":
            found.append(Path(fields[4]))
    return found


def freezer_hierarchy() -> Path:
    """The hierarchy by which tasks are frozen: looking there alone finds all of them, quickly."""
    roots = hierarchies()
    return next((root for root in roots if root.name == "freezer"), roots[0])


def create(cgroup: str) -> None:
    """Make it in every hierarchy, parents included, able to hold processes."""
    for root in hierarchies():
        path = root
        for part in Path(cgroup.strip("/")).parts:
            _delegate(path)
            path /= part
            path.mkdir(exist_ok=True)
            _inherit_cpuset(path)


def join(cgroup: str | None, *, pid: int) -> None:
    """Put a process, and with it all its later children, into a cgroup, in every hierarchy."""
    if cgroup is None:
        return
    create(cgroup)
    for root in hierarchies():
        (root / cgroup.strip("/") / "cgroup.procs").write_text(str(pid))


def processes(cgroup: str, *, root: Path | None = None) -> set[int]:
    """Every process in it or below it, in any hierarchy, or in that of `root`."""
    found: set[int] = set()
    for group in _groups(cgroup) if root is None else _groups_below(root / cgroup.strip("/")):
        with contextlib.suppress(FileNotFoundError, OSError):
            found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
    return found - {0}


def kill(cgroup: str) -> None:
    """End every process in it or below it, frozen ones too; done when none is left."""
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while pids := processes(cgroup):
        if os.getpid() in pids:
            raise TransshipError(f"killing cgroup {cgroup}: this very process is in it")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _thaw(cgroup)  # a frozen process takes even SIGKILL only once thawed; it runs nothing more
        if time.monotonic() > deadline:
            raise TransshipError(
                f"killing cgroup {cgroup}: {len(pids)} processes do not end",
                reason=Reason.UNKILLABLE,
            )
        time.sleep(POLL_SECONDS)  # no hierarchy of v1 reports that it became empty


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
            # the last process has ended, but the kernel lets go of it a moment later
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
    """v2: let the children of this group use every controller that it has itself."""
    switch = group / "cgroup.subtree_control"
    if not switch.exists():
        return
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            switch.write_text(f"+{controller}")


def _inherit_cpuset(group: Path) -> None:
    """v1: a new cpuset is empty, and an empty one takes no processes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, parent = group / name, group.parent / name
        if not (group / "cgroup.clone_children").exists() or not own.exists():
            continue
        if not own.read_text().strip():
            own.write_text(parent.read_text())
