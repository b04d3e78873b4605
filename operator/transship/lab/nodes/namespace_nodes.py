"""The lab's nodes, and its operator's host: machines made of namespaces.

A node has its own network, mounts, host name, IPC and processes, a root laid over the node image,
and a disk. Its process 1 only reaps; ending it is a power cut. What a node made in its namespaces
goes with it; its root and its disk stay for the next boot.
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

DISK_BYTES = 20 << 30  # sparse: costs what is written
END_TIMEOUT_SECONDS = 20.0
BOOT_TIMEOUT_SECONDS = 30.0
BOOT_POLL_SECONDS = 0.01
SYSTEM_CGROUP = "system"  # a node's own processes, beside its containers
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
    """Start a node, with the root and the disk that it had before, and connect it."""
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
    """End a node at once: nobody hears from it again, and nothing in it runs on."""
    network.detach(state_dir, host)
    _end(state_dir, state, host)


def node_alive(state_dir: Path, host: str) -> bool:
    return daemon_alive(state_dir, init_daemon(host))


def node_pid(state_dir: Path, host: str) -> int:
    """The machine's pid of the node's process 1."""
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
    """Start a daemon inside a node; it ends with the node at the latest."""
    return start_daemon(
        state_dir,
        name,
        argv,
        env={**ENVIRONMENT, **(env or {})},
        # a child of the node's process 1: nsenter stops for good beside a child that is stopped,
        # and the kernel does not end a pid namespace before all in it are reaped
        enter=[*enter_words(state_dir, host), "setsid", "--fork"],
        cgroup=_system_cgroup(state, host),
    )


def enter_words(state_dir: Path, host: str) -> list[str]:
    """The command that runs the words after it inside a node."""
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
    return [program("nsenter"), "--target", str(node_pid(state_dir, host)), *spaces, "--"]


def configure_node(state_dir: Path, host: str, files: Mapping[str, bytes]) -> None:
    """Place files into a node's /etc/transship, before it boots or while it runs."""
    if node_alive(state_dir, host):
        # the kernel leaves changes below a mounted overlay undefined: go through the node
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
    """Everything of a node that is on the machine's disk."""
    folder = node_dir(state_dir, host)
    for name in ("upper/etc", "work", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    etc = folder / "upper" / "etc"
    (etc / "hostname").write_text(f"{host}\n")
    (etc / "hosts").write_text(hosts_file(state))
    # no name server: a name that is not in hosts is refused at once instead of timing out
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
    """The kernel ends a pid namespace with its process 1, but waits for frozen tasks to thaw."""
    init = init_daemon(host)
    if daemon_alive(state_dir, init):
        os.kill(daemon_pid(state_dir, init), signal.SIGKILL)
    deadline = time.monotonic() + END_TIMEOUT_SECONDS
    while True:  # a restore may freeze its tasks just after they were thawed
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
    # -m 0: nothing is kept back for root, so that a full disk is full for everyone
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
