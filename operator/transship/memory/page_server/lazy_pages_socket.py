"""The messages of CRIU to a lazy-pages daemon, on the socket `lazy-pages.socket` (criu/uffd.c).

For each process CRIU sends an int, its pid in the images, and then its userfaultfd. The pid of a
zombie is negative: it has no memory and no userfaultfd. Near the end of the restore CRIU sends one
more int. It waits for no answer.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from transship.common.errors import TransshipError

SOCKET_NAME = "lazy-pages.socket"
RECEIVE_TIMEOUT_SECONDS = 5.0
"""For the second half of a message, which CRIU sends right after the first."""

_NUMBER = struct.Struct("=i")
_FINISHED = 0x52535446


@dataclass(frozen=True)
class CriuProcess:
    """A process that is being restored, with its userfaultfd."""

    pid: int
    fd: int


@dataclass(frozen=True)
class CriuRestoreFinished:
    """All processes have been sent, and all of their memory is mapped."""


@dataclass(frozen=True)
class CriuClosed:
    """CRIU has closed the connection: it is done, or has failed if the restore is not finished."""


@dataclass(frozen=True)
class CriuZombie:
    """A zombie: a process without memory."""


CriuMessage = CriuProcess | CriuRestoreFinished | CriuClosed | CriuZombie


def receive_message(channel: socket.socket) -> CriuMessage:
    """Read one message. Raises TransshipError if it is incomplete."""
    channel.settimeout(RECEIVE_TIMEOUT_SECONDS)
    data = channel.recv(_NUMBER.size, socket.MSG_WAITALL)
    if not data:
        return CriuClosed()
    if len(data) < _NUMBER.size:
        raise TransshipError("restoring lazily: CRIU closed the connection within a message")
    (number,) = _NUMBER.unpack(data)
    if number == _FINISHED:
        return CriuRestoreFinished()
    if number < 0:
        return CriuZombie()
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        raise TransshipError(f"restoring lazily: CRIU sent no userfaultfd of process {number}")
    os.set_inheritable(descriptors[0], False)
    return CriuProcess(number, descriptors[0])
