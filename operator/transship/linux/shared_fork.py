"""Forks a child that shares the table of open files with its parent: clone(2) with CLONE_FILES.

What the child opens, the parent has open too, and keeps when the child is killed. Only for a
process with one thread, as any fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal

_CLONE_FILES = 0x400
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}

# PyDLL keeps the interpreter's lock during the call, so that the child has it
_libc = ctypes.PyDLL(None, use_errno=True)


def fork_sharing_files() -> int:
    """Return the child's pid, and 0 in the child, which has to end by os._exit."""
    number = _SYS_CLONE[platform.machine()]
    pid = int(_libc.syscall(number, _CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0))
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return pid


def close_all_but(kept: set[int]) -> None:
    """Close all descriptors but the standard streams and those `kept`, after a child has ended.

    Also descriptors of mapped files; the mappings stay.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - it has no path to follow
        if fd > 2 and fd not in kept:
            # the listing had a descriptor itself
            with contextlib.suppress(OSError):
                os.close(fd)
