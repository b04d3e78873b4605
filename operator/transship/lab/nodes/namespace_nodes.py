"""Nodes made of namespaces; the operator's host is one as well.

A node has its own network, mounts, host name, IPC and pid namespace, an overlay over the node image
as root, and a disk. Its process 1 only reaps orphans; killing it works like a power cut. Root and
disk stay for the next boot, everything else goes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from transship.common.errors import DeadlineExceeded, NotFound, TransshipError
from transship.common.processes import run_blocking
from transship.lab.daemons import (
    daemon_alive,
    daemon_pid,
    log_path,
    program,
    start_daemon,
)
from transship.lab.nodes import boot, cgroups, criu_wrapper, network
from transship.lab.state import MACHINE, OPERATOR, LabState

# the file is sparse
DISK_BYTES = 20 << 30
END_TIMEOUT_SECONDS = 20.0
BOOT_TIMEOUT_SECONDS = 30.0
BOOT_POLL_SECONDS = 0.01
# the cgroup of a node's own processes, beside those of its containers
SYSTEM_CGROUP = "system"
CONFIGURATION = "etc/transship"
ENVIRONMENT = {
    "PATH": "/opt/transship/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
}


def node_dir(state_dir: Path, host: str) -> Path:
    return state_dir / "nodes" / host


def boot_node(state_dir: Path, state: LabState, host: str) -> None:
    """Boot a node, with its earlier root and disk if it has any, and connect it to the network."""
    if state.image is None:
        raise TransshipError(f"booting {host}: the lab has no node image yet")
    folder = prepare_node(state_dir, state, host)
    pid = start_daemon(
        state_dir,
        init_daemon(host),
        [sys.executable, "-I", boot.__file__, folder, state.image, host],
        env=ENVIRONMENT,
        enter=[program("unshare"), "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"],
        cgroup=_system_cgroup(state, host),
    )
    network.attach(state_dir, state, host, pid=pid)
    _await_boot(state_dir, host, pid=pid)


def cut_power(state_dir: Path, state: LabState, host: str) -> None:
    """End a node at once, network first, so that its last packets reach nobody."""
    network.detach(state_dir, host)
    _end(state_dir, state, host)


def node_alive(state_dir: Path, host: str) -> bool:
    return daemon_alive(state_dir, init_daemon(host))


def node_pid(state_dir: Path, host: str) -> int:
    """The pid of the node's process 1, in the machine's pid namespace."""
    if not node_alive(state_dir, host):
        raise NotFound(f"{host} is not running", hint=f"transship lab restart node:{host}")
    return daemon_pid(state_dir, init_daemon(host))


def start_in_node(
    state_dir: Path,
    state: LabState,
    host: str,
    *,
    name: str,
    argv: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
) -> int:
    """Start a daemon inside a node. It ends with the node."""
    return start_daemon(
        state_dir,
        name,
        argv,
        env={**ENVIRONMENT, **(env or {})},
        # the fork makes it a child of the node's process 1, which reaps it: nsenter stops for good
        # with a stopped child, and a pid namespace ends only when all its processes are reaped
        enter=[*enter_words(state_dir, host), "setsid", "--fork"],
        cgroup=_system_cgroup(state, host),
    )


def enter_words(state_dir: Path, host: str) -> list[str]:
    """The command that runs its arguments inside a node."""
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
    return [program("nsenter"), "--target", str(node_pid(state_dir, host)), *spaces, "--"]


def configure_node(state_dir: Path, host: str, files: Mapping[str, bytes]) -> None:
    """Write files into a node's /etc/transship, before it boots or while it runs."""
    if node_alive(state_dir, host):
        # changes below a mounted overlay are undefined, so write through the node's own root
        root = Path(f"/proc/{node_pid(state_dir, host)}/root")
    else:
        root = node_dir(state_dir, host) / "upper"
    folder = root / CONFIGURATION
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        draft = folder / f".{name}"
        draft.touch(mode=0o600)
        draft.write_bytes(content)
        draft.replace(folder / name)


def prepare_node(state_dir: Path, state: LabState, host: str) -> Path:
    """Create the node's folder on the machine, with its configuration and its disk."""
    folder = node_dir(state_dir, host)
    for name in ("upper/etc", "work", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    etc = folder / "upper" / "etc"
    (etc / "hostname").write_text(f"{host}\n")
    (etc / "hosts").write_text(hosts_file(state))
    # without a name server, an unknown name fails at once instead of timing out
    (etc / "resolv.conf").write_text("")
    criu_wrapper.install(folder / "upper")
    disk = folder / "disk.img"
    if host != OPERATOR and not disk.exists():
        _make_disk(disk)
    return folder


def hosts_file(state: LabState) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    names = {MACHINE: f"{MACHINE} registry kubernetes"}
    lines += [f"{state.address(host)} {names.get(host, host)}" for host in state.hosts]
    return "\n".join(lines) + "\n"


def _end(state_dir: Path, state: LabState, host: str) -> None:
    """Kill process 1 and all others. The kernel waits for frozen tasks, so they are thawed."""
    init = init_daemon(host)
    if daemon_alive(state_dir, init):
        os.kill(daemon_pid(state_dir, init), signal.SIGKILL)
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    # a restore may freeze its tasks again after a thaw
    while True:
        cgroups.kill(state.cgroup_of(host))
        cgroups.remove(state.cgroup_of(host))
        if not daemon_alive(state_dir, init):
            return
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"ending {host}: not done in {END_TIMEOUT_SECONDS:g} s")
        time.sleep(BOOT_POLL_SECONDS)


def _make_disk(disk: Path) -> None:
    draft = disk.with_suffix(".draft")
    with draft.open("wb") as file:
        file.truncate(DISK_BYTES)
    # -m 0: no blocks reserved for root, so that a full disk is full for every user
    run_blocking([program("mkfs.ext4"), "-q", "-F", "-m", "0", "-L", "transship", draft])
    draft.rename(disk)


def _await_boot(state_dir: Path, host: str, *, pid: int) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_SECONDS
    while not Path(f"/proc/{pid}/root", boot.BOOTED).exists():
        if not node_alive(state_dir, host):
            log = log_path(state_dir, init_daemon(host))
            tail = log.read_text(errors="replace")[-1000:] if log.exists() else ""
            raise TransshipError(f"booting {host}: it ended: {tail.strip()}")
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"booting {host}: not done in {BOOT_TIMEOUT_SECONDS:g} s")
        time.sleep(BOOT_POLL_SECONDS)


def init_daemon(host: str) -> str:
    return f"init-{host}"


def _system_cgroup(state: LabState, host: str) -> str:
    return f"{state.cgroup_of(host)}/{SYSTEM_CGROUP}"
