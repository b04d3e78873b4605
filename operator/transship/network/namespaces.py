"""Network namespaces that are bound to files: created, entered and deleted without a process.

Each call uses a new thread to create or enter a namespace, so no other thread changes its
namespace. A namespace is bound to its file only when it is prepared: one that exists is complete.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from transship.common.errors import TransshipError

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
CURRENT = Path("/proc/thread-self/ns/net")
# Python has os.unshare and os.setns from 3.12 on, and has no mount
LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def open_current() -> int:
    """Open the calling thread's network namespace. Returns a file descriptor."""
    return os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)


def run_inside(namespace: int | Path, work: Callable[[], T]) -> T:
    """Run the function in a thread inside that namespace. Sockets that it opens belong to it."""

    def entered() -> T:
        descriptor = namespace if isinstance(namespace, int) else os.open(namespace, os.O_RDONLY)
        try:
            _check(LIBC.setns(descriptor, CLONE_NEWNET), "entering a network namespace")
        finally:
            if descriptor is not namespace:
                os.close(descriptor)
        return work()

    return _in_own_thread(entered)


def create(path: Path, *, prepare: Callable[[], None]) -> None:
    """Create a namespace, prepare it from inside, then bind it to the file. Keeps an old one."""
    if is_namespace(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)

    def made() -> None:
        _check(LIBC.unshare(CLONE_NEWNET), "making a network namespace")
        prepare()
        target, source = os.fsencode(path), os.fsencode(CURRENT)
        _check(LIBC.mount(source, target, None, MS_BIND, None), f"binding {path}")

    _in_own_thread(made)


def delete(path: Path) -> None:
    """Remove the file. The kernel removes the namespace when its last process has ended."""
    if is_namespace(path):
        _check(LIBC.umount2(os.fsencode(path), MNT_DETACH), f"unmounting {path}")
    path.unlink(missing_ok=True)


def is_namespace(path: Path) -> bool:
    """Return whether the file is a namespace. A crash before the mount leaves a plain file."""
    try:
        return path.stat().st_dev == CURRENT.stat().st_dev
    except FileNotFoundError:
        return False


def _in_own_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns") as thread:
        return thread.submit(work).result()


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise TransshipError(f"{what}: {os.strerror(code)}", reason="NetworkFailed")
