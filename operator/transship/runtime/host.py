"""What of this node goes into a bundle."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from transship.runtime.bundle import Host

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
    return Host(
        machine=os.uname().machine,
        capabilities=capabilities_in(Path("/proc/self/status").read_text()),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


def capabilities_in(status: str) -> frozenset[str]:
    """The permitted ones of a process, from its /proc/PID/status."""
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:"))
    bits = int(mask, 16)
    return frozenset(name for bit, name in enumerate(CAPABILITIES) if bits & 1 << bit)


def name_servers() -> bytes:
    """The node's resolv.conf.

    A resolver on the node's own loopback is out of a container's reach; systemd-resolved keeps the
    list of the real ones beside it.
    """
    plain, real = Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")
    text = plain.read_bytes() if plain.exists() else b""
    return real.read_bytes() if b"nameserver 127." in text and real.exists() else text
