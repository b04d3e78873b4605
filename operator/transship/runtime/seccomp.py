"""The seccomp profile: the system calls that a container may not make. Pure.

The profiles of Docker and Podman list the 400 allowed calls, and change with every kernel. This one
lists the calls that theirs refuses, so the filter that CRIU has to dump has a tenth of the size.
"""

from __future__ import annotations

from collections.abc import Collection
from errno import ENOSYS, EPERM

from transship.runtime.oci import Seccomp, SyscallArgument, SyscallRule

REFUSE, ALLOW = "SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"
MASKED_EQUAL = "SCMP_CMP_MASKED_EQ"

# CRIU cannot dump a ring (`Unknown shit 600 (anon_inode:[io_uring])`). ENOSYS makes Node.js,
# MariaDB and libuv use what they used before io_uring; with EPERM some give up.
IO_URING = ("io_uring_setup", "io_uring_enter", "io_uring_register")

# CRIU does not restore a Landlock domain, and nothing in /proc shows that a process has one: it
# would be free after a move. ENOSYS makes programs do without it, before they rely on it.
LANDLOCK = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self")

# With its flags behind a pointer, clone3 cannot be filtered; on ENOSYS the C library uses clone.
CLONE3 = ("clone3",)

# What needs no capability in the kernel's eyes, or none that a namespace could not give.
ALWAYS_REFUSED = (
    "add_key", "get_kernel_syms", "keyctl", "kexec_file_load", "kexec_load", "move_pages",
    "nfsservctl", "query_module", "request_key", "sysfs", "_sysctl", "uselib", "userfaultfd",
    "ustat", "vm86", "vm86old", "create_module", "lookup_dcookie", "swapon", "swapoff",
)  # fmt: skip

# Refused unless the container has the capability that the call is about.
NEEDS_CAPABILITY = {
    "SYS_ADMIN": (
        "bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "mount",
        "mount_setattr", "move_mount", "open_tree", "perf_event_open", "pivot_root", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "umount", "umount2", "unshare",
    ),
    "SYS_BOOT": ("reboot",),
    "SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "SYS_NICE": ("get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"),
    "SYS_PACCT": ("acct",),
    "SYS_RAWIO": ("ioperm", "iopl"),
    "SYS_TIME": ("clock_adjtime", "clock_settime", "settimeofday", "stime"),
    "DAC_READ_SEARCH": ("open_by_handle_at",),
    "SYS_PTRACE": ("kcmp",),
}  # fmt: skip

CLONE_NEW_ANYTHING = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
AF_VSOCK, AF_ALG = 40, 38

# The other instruction sets of the same CPU must be in the filter, or they would go round it.
ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}


def profile(*, capabilities: Collection[str], machine: str) -> Seccomp:
    """The filter for a container with these capabilities (SYS_ADMIN, ...) on this machine."""
    gated = [
        name for capability, names in NEEDS_CAPABILITY.items()
        if capability not in capabilities for name in names
    ]  # fmt: skip
    rules = [
        SyscallRule(names=(*IO_URING, *LANDLOCK), action=REFUSE, errno_ret=ENOSYS),
        SyscallRule(names=(*ALWAYS_REFUSED, *gated), action=REFUSE, errno_ret=EPERM),
        *(_no_socket(family) for family in (AF_VSOCK, AF_ALG)),
    ]
    if "SYS_ADMIN" not in capabilities:
        rules += _no_new_namespaces(machine)
    return Seccomp(
        default_action=ALLOW, architectures=ARCHITECTURES.get(machine, ()), syscalls=tuple(rules)
    )


def _no_socket(family: int) -> SyscallRule:
    """No vsock (another machine's) and no AF_ALG (a history of holes): CRIU dumps neither."""
    equal = SyscallArgument(index=0, value=family, op="SCMP_CMP_EQ")
    return SyscallRule(names=("socket",), action=REFUSE, errno_ret=EPERM, args=(equal,))


def _no_new_namespaces(machine: str) -> list[SyscallRule]:
    """No clone with any of the namespace flags; a filter has no "any of", so one rule per flag."""
    flags_at = 1 if machine == "s390x" else 0
    single = [1 << bit for bit in range(32) if CLONE_NEW_ANYTHING & 1 << bit]
    rules = [
        SyscallRule(
            names=("clone",), action=REFUSE, errno_ret=EPERM,
            args=(SyscallArgument(index=flags_at, value=flag, value_two=flag, op=MASKED_EQUAL),),
        )
        for flag in single
    ]  # fmt: skip
    return [*rules, SyscallRule(names=CLONE3, action=REFUSE, errno_ret=ENOSYS)]
