"""Forking with one table of open files for both: clone(2) with CLONE_FILES.

Whatever the child opens is the parent's too, from the same instant on, and stays open when the
child is killed. Only for a process that has one thread, as with any fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal

_CLONE_FILES = 0x400
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}

# the interpreter's lock stays with the caller, so that the child has it
_libc = ctypes.PyDLL(None, use_errno=True)


def fork_sharing_files() -> int:
    """The child's pid; 0 in the child, which has to end by os._exit."""
    number = _SYS_CLONE[platform.machine()]
    pid = int(_libc.syscall(number, _CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0))
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return pid


def close_all_but(kept: set[int]) -> None:
    """Close what an earlier child has left open, besides the standard streams.

    Also the copies that mappings have of their descriptors; what is mapped stays mapped.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - it has no path to follow
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)
