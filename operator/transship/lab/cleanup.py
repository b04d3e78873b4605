"""Removes a lab, however far its creation or an earlier removal came.

The lab's name is enough: everything that a lab creates outside its directory is named after it. The
directory goes last, so an interrupted removal can be repeated.
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
    """Remove processes, network, loop devices, mounts, files and cgroups, in this order."""
    state = _state_or_default(directory)
    cgroups.kill(state.cgroup)
    for daemon in daemon_names(directory):
        # a damaged record names no process; its process was in the cgroup
        with contextlib.suppress(TransshipError):
            kill_daemon(directory, daemon)
    network.remove_network(state)
    _release_disks(directory)
    _unmount_below(directory)
    _remove_tree(directory)
    cgroups.remove(state.cgroup)


def leftovers(directory: Path) -> list[str]:
    """What is left of a lab, as lines of text; empty after a complete removal."""
    state = _state_or_default(directory)
    remaining = [f"process {pid}" for pid in sorted(cgroups.processes(state.cgroup))]
    remaining += [f"mount {mount}" for mount in mounts_below(directory)]
    remaining += [f"loop device {device}" for device in _disks(directory)]
    if network.network_exists(state):
        remaining.append(f"link {state.machine_link}")
    if cgroups.exists(state.cgroup):
        remaining.append(f"cgroup {state.cgroup}")
    if directory.exists():
        remaining.append(f"directory {directory}")
    return remaining


def mounts_below(directory: Path) -> list[Path]:
    """The deepest mounts first: the kernel unmounts in this order only."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(_unescape(line.split()[4])) for line in lines]
    return sorted(
        (point for point in points if point.is_relative_to(directory)),
        key=lambda point: len(point.parts),
        reverse=True,
    )


def _state_or_default(directory: Path) -> LabState:
    """The lab's record, or without a readable one a record with the lab's name."""
    with contextlib.suppress(TransshipError):
        if (state := find_state(directory)) is not None:
            return state
    return LabState(name=directory.name, index=0, nodes=())


def _disks(directory: Path) -> list[str]:
    """The loop devices backed by files of the lab."""
    devices: list[str] = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            backing = Path(file.read_text().strip().removesuffix(" (deleted)"))
            if backing.is_relative_to(directory):
                devices.append(f"/dev/{file.parts[3]}")
    return devices


def _release_disks(directory: Path) -> None:
    """Wait until the kernel frees the loop devices, soon after the node's last process ended."""
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
    # deleting would reach into a mounted file system
    if mounts_below(directory):
        raise TransshipError(f"removing {directory}: something is mounted below it")
    if directory.exists():
        shutil.rmtree(directory)
    # fails if other labs are in it, or if it does not exist
    with contextlib.suppress(OSError):
        directory.parent.rmdir()


def _unescape(text: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
