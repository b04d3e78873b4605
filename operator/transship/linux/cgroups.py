"""cgroups, v1 and v2: creating and removing them, their members, their CPU time.

A machine is v2 when /sys/fs/cgroup itself is a cgroup2, and v1 otherwise, as runc has it; a hybrid
machine is v1.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transship.common.errors import TransshipError

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Hierarchies:
    """The mount points of the cgroup hierarchies by controller.

    In v1 a named hierarchy has a key like `name=systemd`. The one hierarchy of v2 has the key "".
    A hybrid machine also has a cgroup2 without controllers, under the key "unified", in which
    systemd tracks its services.
    """

    mounts: Mapping[str, Path]

    @property
    def unified(self) -> bool:
        return "" in self.mounts

    def path(self, cgroup: str, *, controller: str) -> Path:
        base = self.mounts[""] if self.unified else self.mounts[controller]
        return base / cgroup.strip("/")

    def paths(self, cgroup: str) -> tuple[Path, ...]:
        """Return the path in every hierarchy; one with two controllers comes once."""
        return tuple(dict.fromkeys(base / cgroup.strip("/") for base in self.mounts.values()))


def detect(table: str | None = None) -> Hierarchies:
    """Find the hierarchies in this process's mountinfo, or in a `table` in its format."""
    mounts: dict[str, Path] = {}
    for line in (table or Path("/proc/self/mountinfo").read_text()).splitlines():
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = Path(left.split(" ")[4]), right.split(" ")[:3]
        if kind == "cgroup2" and point == ROOT:
            return Hierarchies({"": point})
        if kind == "cgroup2":
            mounts["unified"] = point
        if kind == "cgroup":
            words = options.split(",")
            mounts |= {word: point for word in words if word not in ("rw", "ro", "xattr")}
    if not mounts:
        raise TransshipError("no cgroups are mounted", hint="mount them at /sys/fs/cgroup")
    return Hierarchies(mounts)


def create(hierarchies: Hierarchies, cgroup: str) -> None:
    """Create a cgroup and its parents, ready for members or children."""
    for path in hierarchies.paths(cgroup):
        _create(path, stop=_base(hierarchies, path))


def _base(hierarchies: Hierarchies, path: Path) -> Path:
    return max(
        (base for base in hierarchies.mounts.values() if path.is_relative_to(base)),
        key=lambda base: len(base.parts),
    )


def _create(path: Path, *, stop: Path) -> None:
    if path == stop:
        return
    _create(path.parent, stop=stop)
    if stop == ROOT:
        _enable_controllers(path.parent)
        path.mkdir(exist_ok=True)
    else:
        path.mkdir(exist_ok=True)
        _inherit_cpuset(path)


def _enable_controllers(parent: Path) -> None:
    """v2: a child has only the controllers that its parent enables in subtree_control."""
    for name in (parent / "cgroup.controllers").read_text().split():
        # EBUSY: the parent has members of its own
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{name}")


def _inherit_cpuset(path: Path) -> None:
    """v1: a new cpuset has no CPUs and memory nodes, and can have no members until it has some."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file, above = path / name, path.parent / name
        if file.exists() and not file.read_text().strip():
            file.write_text(above.read_text())


def enter(hierarchies: Hierarchies, cgroup: str, *, pid: int) -> None:
    """Move a process into a cgroup in every hierarchy."""
    for path in hierarchies.paths(cgroup):
        (path / "cgroup.procs").write_text(str(pid))


def members(hierarchies: Hierarchies, cgroup: str) -> tuple[int, ...]:
    """Return the processes in a cgroup; in v1, of the freezer's hierarchy."""
    with contextlib.suppress(FileNotFoundError):
        path = hierarchies.path(cgroup, controller="freezer")
        return pids((path / "cgroup.procs").read_text())
    return ()


def pids(procs: str) -> tuple[int, ...]:
    """Parse a cgroup.procs.

    A 0 is a process outside of the reader's pid namespace. It is omitted: kill(2) would take it for
    the caller's own process group.
    """
    return tuple(int(word) for word in procs.split() if word != "0")


def kill(hierarchies: Hierarchies, cgroup: str) -> None:
    """Send SIGKILL to all members and thaw them; a frozen one dies without running."""
    path = hierarchies.path(cgroup, controller="freezer")
    if not path.exists():
        return
    if (path / "cgroup.kill").exists():
        (path / "cgroup.kill").write_text("1")
        return
    for pid in members(hierarchies, cgroup):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    thaw(hierarchies, cgroup)


def thaw(hierarchies: Hierarchies, cgroup: str) -> None:
    """Thaw a cgroup, if there is one."""
    path = hierarchies.path(cgroup, controller="freezer")
    with contextlib.suppress(FileNotFoundError):
        if hierarchies.unified:
            (path / "cgroup.freeze").write_text("0")
        else:
            (path / "freezer.state").write_text("THAWED")


def remove(hierarchies: Hierarchies, cgroup: str) -> None:
    """Remove a cgroup and its children. Raises TransshipError when one has members."""
    for path in hierarchies.paths(cgroup):
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                Path(directory).rmdir()
            except FileNotFoundError:
                continue
            except OSError as e:
                if e.errno == errno.EBUSY:
                    raise TransshipError(f"removing the cgroup {directory}: not empty") from e
                raise


def cpu_nanoseconds(hierarchies: Hierarchies, cgroup: str) -> int | None:
    """Return the CPU time that a cgroup has used so far; None when there is no such cgroup."""
    try:
        if hierarchies.unified:
            path = hierarchies.path(cgroup, controller="")
            return _flat(path / "cpu.stat")["usage_usec"] * 1000
        path = hierarchies.path(cgroup, controller="cpuacct")
        return int((path / "cpuacct.usage").read_text())
    except FileNotFoundError:
        return None


def _flat(file: Path) -> dict[str, int]:
    rows = (line.split() for line in file.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows}
