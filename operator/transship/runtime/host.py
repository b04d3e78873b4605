"""The properties of this node that go into bundles, and its name servers."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from functools import cache
from pathlib import Path

from transship.linux import mounts
from transship.runtime.bundle import Host

UNLIMITED = (1 << 64) - 1
"""In the OCI specification."""
RLIMITS = (
    "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC",
    "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
)  # fmt: skip
RLIMIT_LOCKS = 10
"""Python has no name for it."""

# By number: include/uapi/linux/capability.h
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip


def this_host() -> Host:
    """Read the properties of this node."""
    capabilities = capabilities_in(Path("/proc/self/status").read_text())
    return Host(
        machine=os.uname().machine,
        capabilities=capabilities,
        rlimits=_rlimits(may_raise="SYS_RESOURCE" in capabilities),
        oom_score_adj=lowest_oom_score_adj(),
    )


def capabilities_in(status: str) -> frozenset[str]:
    """Return the permitted capabilities in a /proc/PID/status."""
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:"))
    bits = int(mask, 16)
    return frozenset(name for bit, name in enumerate(CAPABILITIES) if bits & 1 << bit)


def _rlimits(*, may_raise: bool) -> dict[str, tuple[int, int]]:
    """The limits of the node's process 1, as far as the agent may set them.

    The agent's own limits were changed by a shell, or by the runtime of its Pod.
    """
    limits = {}
    for name in RLIMITS:
        number = getattr(resource, f"RLIMIT_{name}", RLIMIT_LOCKS)
        own = resource.getrlimit(number)
        soft, hard = map(_unsigned, _limit_of_process_1(number) or own)
        if not may_raise:
            hard = min(hard, _unsigned(own[1]))
        limits[name] = (min(soft, hard), hard)
    return limits


def _limit_of_process_1(number: int) -> tuple[int, int] | None:
    # process 1 may belong to another user
    with suppress(PermissionError):
        return resource.prlimit(1, number)
    return None


def _unsigned(limit: int) -> int:
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


@cache
def lowest_oom_score_adj() -> int:
    """Return 0, or this process's own value if it may not lower it.

    Without CAP_SYS_RESOURCE the kernel has a minimum that it does not show: the value is tried.
    """
    path = Path("/proc/self/oom_score_adj")
    own = int(path.read_text())
    if own <= 0:
        return 0
    try:
        path.write_text("0")
    except PermissionError:
        return own
    path.write_text(str(own))
    return 0


def name_servers(root: Path) -> bytes:
    """Return the node's resolv.conf; `root` is the node's file system.

    A container cannot reach a resolver on the node's loopback. systemd-resolved, which is one,
    lists the real name servers in another file.
    """
    names = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
    plain, real = (mounts.inside(root, name) for name in names)
    text = plain.read_bytes() if plain.exists() else b""
    return real.read_bytes() if b"nameserver 127." in text and real.exists() else text
