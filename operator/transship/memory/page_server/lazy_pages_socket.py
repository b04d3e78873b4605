"""What CRIU says to whoever gives its processes their pages, on the socket `lazy-pages.socket`.

For each process an int: its pid as the images have it (negative for a zombie, which has no memory),
then its userfaultfd; near the end of the restore one more int (criu/uffd.c). CRIU awaits no answer.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from transship.common.errors import TransshipError

SOCKET_NAME = "lazy-pages.socket"
HEAR_TIMEOUT_SECONDS = 5.0
"""For the second half of a message, which CRIU sends with the first."""

_NUMBER = struct.Struct("=i")
_FINISHED = 0x52535446


@dataclass(frozen=True)
class CriuProcess:
    """A process with its userfaultfd."""

    pid: int
    fd: int


@dataclass(frozen=True)
class CriuRestoreFinished:
    """Every process was told of, and all of their memory is mapped."""


@dataclass(frozen=True)
class CriuClosed:
    """CRIU has closed the connection: it is done, or has failed if the restore is not finished."""


@dataclass(frozen=True)
class CriuZombie:
    """A process without memory."""


CriuMessage = CriuProcess | CriuRestoreFinished | CriuClosed | CriuZombie


def receive_message(channel: socket.socket) -> CriuMessage:
    """Read one message. Raises TransshipError for one that is not CRIU's."""
    channel.settimeout(HEAR_TIMEOUT_SECONDS)
    data = channel.recv(_NUMBER.size, socket.MSG_WAITALL)
    if not data:
        return CriuClosed()
    if len(data) < _NUMBER.size:
        raise TransshipError("restoring lazily: CRIU broke off within a message")
    (number,) = _NUMBER.unpack(data)
    if number == _FINISHED:
        return CriuRestoreFinished()
    if number < 0:
        return CriuZombie()
    _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if not descriptors:
        raise TransshipError(f"restoring lazily: no userfaultfd came for process {number}")
    os.set_inheritable(descriptors[0], False)
    return CriuProcess(number, descriptors[0])
