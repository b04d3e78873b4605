"""The node's cgroups, v1 and v2: where a container's are, who is in them, what they use.

Detected, never assumed: runc treats a machine as v2 when /sys/fs/cgroup itself is a cgroup2, and
as v1 otherwise (hybrids too), and so does this module.
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
    """Mount point per v1 controller (named ones as name=systemd); or the one of v2, as "" .

    A hybrid machine has v1 and, beside it, a cgroup2 without controllers (here: "unified"), by
    which systemd keeps track of its services.
    """

    mounts: Mapping[str, Path]

    @property
    def unified(self) -> bool:
        return "" in self.mounts

    def path(self, cgroup: str, *, controller: str) -> Path:
        base = self.mounts[""] if self.unified else self.mounts[controller]
        return base / cgroup.strip("/")

    def paths(self, cgroup: str) -> tuple[Path, ...]:
        """The cgroup in every hierarchy; a hierarchy mounted for two controllers comes once."""
        return tuple(dict.fromkeys(base / cgroup.strip("/") for base in self.mounts.values()))


def detect(table: str | None = None) -> Hierarchies:
    """Read the mounts of this process (or a text in the format of mountinfo)."""
    found: dict[str, Path] = {}
    for line in (table or Path("/proc/self/mountinfo").read_text()).splitlines():
        left, _, right = line.partition(" - ")
        point, (kind, _, options) = Path(left.split(" ")[4]), right.split(" ")[:3]
        if kind == "cgroup2" and point == ROOT:
            return Hierarchies({"": point})
        if kind == "cgroup2":
            found["unified"] = point
        if kind == "cgroup":
            words = options.split(",")
            found |= {word: point for word in words if word not in ("rw", "ro", "xattr")}
    if not found:
        raise TransshipError("no cgroups are mounted", hint="mount them at /sys/fs/cgroup")
    return Hierarchies(found)


def create(hierarchies: Hierarchies, cgroup: str) -> None:
    """Make a cgroup and those above it, ready to have members or children."""
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
        _hand_down_controllers(path.parent)
        path.mkdir(exist_ok=True)
    else:
        path.mkdir(exist_ok=True)
        _inherit_cpuset(path)


def _hand_down_controllers(parent: Path) -> None:
    """v2: a child has only the controllers that its parent hands down."""
    for name in (parent / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # EBUSY: the parent has members of its own
            (parent / "cgroup.subtree_control").write_text(f"+{name}")


def _inherit_cpuset(path: Path) -> None:
    """v1: a new cpuset is empty, and nothing may enter it until it has CPUs and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file, above = path / name, path.parent / name
        if file.exists() and not file.read_text().strip():
            file.write_text(above.read_text())


def enter(hierarchies: Hierarchies, cgroup: str, *, pid: int) -> None:
    for path in hierarchies.paths(cgroup):
        (path / "cgroup.procs").write_text(str(pid))


def members(hierarchies: Hierarchies, cgroup: str) -> tuple[int, ...]:
    """The processes of a container, by the freezer's word in v1 (the one that must not err)."""
    with contextlib.suppress(FileNotFoundError):
        path = hierarchies.path(cgroup, controller="freezer")
        return pids((path / "cgroup.procs").read_text())
    return ()


def pids(procs: str) -> tuple[int, ...]:
    """Whom a cgroup.procs names.

    0 stands for a process of another pid namespace, and means one's own group to kill(2).
    """
    return tuple(int(word) for word in procs.split() if word != "0")


def kill(hierarchies: Hierarchies, cgroup: str) -> None:
    """SIGKILL to all members, then thaw them: a frozen one dies without running on."""
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
    path = hierarchies.path(cgroup, controller="freezer")
    with contextlib.suppress(FileNotFoundError):
        if hierarchies.unified:
            (path / "cgroup.freeze").write_text("0")
        else:
            (path / "freezer.state").write_text("THAWED")


def remove(hierarchies: Hierarchies, cgroup: str) -> None:
    """Remove a cgroup with its children, all without members by now."""
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
    """The CPU time used so far; None when the container has no cgroups (it does not run)."""
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
