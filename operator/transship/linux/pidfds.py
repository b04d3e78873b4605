"""pidfds: handles of processes that never refer to another process (pidfd_open(2))."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SYS_PIDFD_GETFD = 438
"""The same on all architectures."""

_libc = ctypes.CDLL(None, use_errno=True)
_SIGNAL = re.compile(r"^(?:SIG)?([A-Z]+[12]?|\d+)([+-]\d+)?$")


@contextmanager
def handle(pid: int | None) -> Iterator[int | None]:
    """Open a pidfd; None for no pid, and for a process that has ended."""
    descriptor = None
    with contextlib.suppress(ProcessLookupError):
        descriptor = None if pid is None else os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def send(process: int | None, number: int) -> None:
    """Send a signal, unless the process has ended."""
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)


async def ended(process: int | None, *, timeout_seconds: float) -> bool:
    """Wait for the end of a process, when its pidfd becomes readable; whether it came in time."""
    if process is None:
        return True
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(process, event.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    except TimeoutError:
        return False
    else:
        return True
    finally:
        loop.remove_reader(process)


def signal_number(name: str) -> int:
    """Parse a signal such as SIGTERM, TERM, 15 or SIGRTMIN+3. Raises ValueError."""
    match = _SIGNAL.match(name.upper())
    if match is None:
        raise ValueError(f"{name!r} is not the name of a signal")
    word, offset = match.groups()
    if word.isdigit():
        return int(word)
    try:
        return signal.Signals[f"SIG{word}"] + int(offset or 0)
    except KeyError:
        raise ValueError(f"{name!r} is not the name of a signal") from None


@dataclass(frozen=True)
class Socket:
    """The kind of a socket, in the numbers that socket(2) takes."""

    family: int
    kind: int
    protocol: int


def socket_of(pid: int, number: int) -> Socket | None:
    """Return the kind of a socket that another process has as descriptor `number`.

    None when the process or the descriptor is gone, or the kernel refuses access.
    """
    with contextlib.suppress(OSError), handle(pid) as process:
        if process is None:
            return None
        duplicate = _libc.syscall(SYS_PIDFD_GETFD, process, number, 0)
        if duplicate < 0:
            return None
        with socket.socket(fileno=duplicate) as copy:
            return Socket(int(copy.family), int(copy.type), copy.proto)
    return None
