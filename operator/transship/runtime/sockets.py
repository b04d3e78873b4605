"""Shutting a connection of another process, so that it sees an error and can clean up after itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path

PIDFD_GETFD = 438  # the system call's number, the same on every architecture; Linux >= 5.6


def shut_connections(pid: int, *, address: str, port: int) -> int:
    """Shut every TCP connection that a process has to this peer; returns how many there were.

    Only those: CRIU also holds duplicates of the sockets of the container that it dumps.
    """
    count = 0
    for connection in _connections(pid):
        with connection, contextlib.suppress(OSError):
            if connection.getpeername()[:2] == (address, port):
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count


def _connections(pid: int) -> Iterator[socket.socket]:
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            for number in _socket_numbers(pid):
                descriptor = _libc().syscall(PIDFD_GETFD, handle, number, 0)
                if descriptor >= 0:
                    yield from _tcp(descriptor)
        finally:
            os.close(handle)


def _socket_numbers(pid: int) -> list[int]:
    numbers = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith("socket:"):
                numbers.append(int(link.name))
    return numbers


def _tcp(descriptor: int) -> Iterator[socket.socket]:
    found = socket.socket(fileno=descriptor)
    if found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM:
        yield found
    else:
        found.close()


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
