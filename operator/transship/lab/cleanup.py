"""Removing a lab, however far its making or its earlier removal came.

All that it needs is the lab's name: everything that a lab makes outside its directory carries it.
What is on the disk goes last, so that an interrupted removal can be taken up again.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from pathlib import Path

from transship.common.errors import TransshipError
from transship.common.processes import run_blocking
from transship.lab.daemons import daemon_names, kill_daemon, program
from transship.lab.nodes import cgroups, network
from transship.lab.state import LabState, find_state

RELEASE_TIMEOUT_SECONDS = 15.0
POLL_SECONDS = 0.02
ESCAPED = re.compile(r"\\([0-7]{3})")


def remove_lab(directory: Path) -> None:
    """Processes, network, loop devices, mounts, cgroups, files: in this order."""
    state = _state_or_guess(directory)
    cgroups.kill(state.cgroup)
    for daemon in daemon_names(directory):
        # a damaged record names nobody; whoever it meant was in the cgroup
        with contextlib.suppress(TransshipError):
            kill_daemon(directory, daemon)
    network.remove_network(state)
    _release_disks(directory)
    _unmount_below(directory)
    _remove_tree(directory)
    cgroups.remove(state.cgroup)


def leftovers(directory: Path) -> list[str]:
    """What is left of a lab, for people and for tests; empty when all of it is gone."""
    state = _state_or_guess(directory)
    found = [f"process {pid}" for pid in sorted(cgroups.processes(state.cgroup))]
    found += [f"mount {mount}" for mount in mounts_below(directory)]
    found += [f"loop device {device}" for device in _disks(directory)]
    if network.network_exists(state):
        found.append(f"link {state.machine_link}")
    if cgroups.exists(state.cgroup):
        found.append(f"cgroup {state.cgroup}")
    if directory.exists():
        found.append(f"directory {directory}")
    return found


def mounts_below(directory: Path) -> list[Path]:
    """The deepest first, since they can only be unmounted in this order."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(_unescape(line.split()[4])) for line in lines]
    return sorted(
        (point for point in points if point.is_relative_to(directory)),
        key=lambda point: len(point.parts),
        reverse=True,
    )


def _state_or_guess(directory: Path) -> LabState:
    """The record; where there is none that can be read, what follows from the name is enough."""
    with contextlib.suppress(TransshipError):
        if (state := find_state(directory)) is not None:
            return state
    return LabState(name=directory.name, index=0, nodes=())


def _disks(directory: Path) -> list[str]:
    """The loop devices on files of the lab."""
    found: list[str] = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            backing = Path(file.read_text().strip().removesuffix(" (deleted)"))
            if backing.is_relative_to(directory):
                found.append(f"/dev/{file.parts[3]}")
    return found


def _release_disks(directory: Path) -> None:
    """They free themselves with the last mount, a moment after the node's last process."""
    deadline = time.monotonic() + RELEASE_TIMEOUT_SECONDS
    while devices := _disks(directory):
        if time.monotonic() > deadline:
            run_blocking([program("losetup"), "--detach", *devices])
            return
        time.sleep(POLL_SECONDS)


def _unmount_below(directory: Path) -> None:
    for mount in mounts_below(directory):
        run_blocking([program("umount"), str(mount)])


def _remove_tree(directory: Path) -> None:
    if mounts_below(directory):  # deleting would reach into a live file system
        raise TransshipError(f"removing {directory}: something is mounted below it")
    if directory.exists():
        shutil.rmtree(directory)
    with contextlib.suppress(OSError):  # other labs are in it, or it never was
        directory.parent.rmdir()


def _unescape(text: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
