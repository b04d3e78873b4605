"""The options that CRIU gets for a dump and for a restore.

A dump gets what `runc checkpoint` would ask for, and what differs is commented. A restore goes
through `runc restore`; only what runc does not ask for by itself is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from transship.criu import externals
from transship.criu.rpc import CgroupMode, NetworkLock, Options
from transship.linux.freezer import Freezer
from transship.runtime.layout import Layout

LOG_LEVEL = 2
"""Errors and warnings. CRIU writes each line with a system call of its own, and writes 1,200 lines
and more at runc's level of 4: 4 ms of a dump of 42 ms."""
DUMP_LOG_NAME = "dump.log"
DUMP_CONFIG_NAME = "dump.conf"
RESTORE_LOG_NAME = "restore.log"

GHOST_LIMIT_BYTES = 256 << 20
"""The largest deleted file that is dumped while it is open; CRIU's default of 1 MiB refuses rotated
logs."""

RUNC_RESTORE_OPTIONS = ("--manage-cgroups-mode=ignore", "--tcp-established", "--file-locks")
RUNC_LAZY_OPTION = "--lazy-pages"


class Pages(Enum):
    """Where the container's private memory is after the dump."""

    IN_IMAGES = "InImages"
    LAZY = "Lazy"
    """In the frozen tasks, where others read it through /proc/PID/mem. The images have only what a
    restore cannot fetch later: shared memory and stacks."""


@dataclass(frozen=True)
class DumpRequest:
    """A container that runc runs, and how to dump it.

    The dump fails when CRIU writes nothing to the images for `timeout_seconds`.
    """

    container: str
    layout: Layout
    pages: Pages
    timeout_seconds: float


def dump_options(
    layout: Layout,
    container: str,
    *,
    pid: int,
    freezer: Freezer | None,
    images_fd: int,
    work_fd: int,
    config: Path | None,
) -> Options:
    """Build the options of a dump; `pid` is the container's process 1, as the node counts it.

    With a `freezer` CRIU freezes the container itself; without one it sends a notification at each
    stage and waits for the reply. A `config` (see lazy_dump_config) makes the dump lazy.
    """
    spec = externals.read_spec(layout.bundle(container))
    return Options(
        images_dir_fd=images_fd,
        work_dir_fd=work_fd,
        log_file=DUMP_LOG_NAME,
        log_level=LOG_LEVEL,
        pid=pid,
        root=str(layout.rootfs(container)),
        external=externals.externals(spec, root=Path(f"/proc/{pid}/root")),
        # the tasks survive the dump, still frozen: a rollback thaws them
        leave_running=True,
        freeze_cgroup=None if freezer is None else str(freezer.path),
        notify_scripts=freezer is None,
        manage_cgroups=True,
        # runc creates them on the target
        cgroup_mode=CgroupMode.IGNORE,
        # the packet gate drops packets outside of the namespace; CRIU's own lock costs 60 ms
        network_lock=NetworkLock.SKIP,
        tcp_established=True,
        external_unix_sockets=True,
        file_locks=True,
        link_remap=True,
        orphan_pts_master=True,
        ghost_limit=GHOST_LIMIT_BYTES,
        lazy_pages=None if config is None else True,
        config_file=None if config is None else str(config),
    )


def lazy_dump_config(hung_up_fd: int) -> str:
    """Build CRIU's configuration file for a lazy dump, from a socket whose peer is closed.

    At the end of a lazy dump CRIU serves pages to a peer, by RPC on a TCP port of all addresses.
    With `ps-socket` it serves them on this descriptor instead, sees the hangup, and ends without
    an error.
    """
    return f"ps-socket {hung_up_fd}\n"


def restore_config(*, devices: Path) -> str:
    """Build CRIU's configuration file for a restore, which an annotation of the bundle names."""
    lines = (
        "network-lock skip",
        "tcp-established",
        "ext-unix-sk",
        "file-locks",
        "link-remap",
        f"ghost-limit {GHOST_LIMIT_BYTES}",
        f"external mnt[{externals.DEVICES_KEY}]:{devices}",
    )
    return "".join(f"{line}\n" for line in lines)
