"""What CRIU is asked for at a dump: the same that `runc checkpoint` asks for, and how we differ."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from transship.criu import externals
from transship.criu.rpc import CgroupMode, NetworkLock, Options
from transship.linux.freezer import Freezer
from transship.runtime.layout import Layout

LOG_NAME = "dump.log"
LOG_LEVEL = 2
"""Errors and warnings. The rest is thousands of lines, written one by one: 4 of 42 ms (seen)."""
CONFIG_NAME = "dump.conf"

GHOST_LIMIT_BYTES = 256 << 20
"""Of a deleted file that is still open; CRIU's own limit of 1 MiB refuses rotated logs."""


class Pages(Enum):
    """What becomes of the memory.

    LAZY: it stays where it is, in the frozen tasks, to be read there by others through
    /proc/PID/mem. Only what a restore cannot get later is in the images: shared memory, stacks.
    """

    IN_IMAGES = "InImages"
    LAZY = "Lazy"


@dataclass(frozen=True)
class DumpRequest:
    """What to dump: a container that runc runs."""

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
    """`freezer` is the one that CRIU may use; without it CRIU stops for answers at each stage.

    `config` makes it a lazy dump (see lazy_configuration).
    """
    spec = externals.read_spec(layout.bundle(container))
    return Options(
        images_dir_fd=images_fd,
        work_dir_fd=work_fd,
        log_file=LOG_NAME,
        log_level=LOG_LEVEL,
        pid=pid,
        root=str(layout.rootfs(container)),
        external=externals.externals(spec, root=Path(f"/proc/{pid}/root")),
        leave_running=True,  # as far as the freezer lets it: the way back
        freeze_cgroup=None if freezer is None else str(freezer.path),
        notify_scripts=freezer is None,
        manage_cgroups=True,
        cgroup_mode=CgroupMode.IGNORE,  # runc makes them on the target
        # the container's packets are held outside of its namespace; CRIU's own lock costs 60 ms
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


def lazy_configuration(hung_up_fd: int) -> str:
    """CRIU's configuration for a lazy dump, whose pages nobody asks CRIU for.

    With its images complete CRIU serves pages, on a TCP port of all addresses when asked by RPC.
    On a socket that is hung up already it finds at once that nobody wants any, and ends well.
    """
    return f"ps-socket {hung_up_fd}\n"
