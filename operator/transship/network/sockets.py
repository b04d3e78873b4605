"""Data that the programs in a network namespace have not read yet, by the kernel's sock_diag.

Only what a dump would lose is counted: datagrams that nobody has read, and connections that nobody
has accepted. The queues of a connection move with it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from transship.common.errors import TransshipError
from transship.network.netlink import HEADER, NLMSG_ERROR, TIMEOUT_SECONDS

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_DONE = 3
FLAGS = 0x01 | 0x300  # request, dump
REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: family, protocol, ext, states
RECEIVE_QUEUE = struct.Struct("=56xI")  # in struct inet_diag_msg
LISTENING = 1 << 10
ANY_STATE = 0xFFFFFFFF
RECEIVE_BYTES = 65536


@dataclass(frozen=True)
class UnreadQueues:
    """What a dump would lose now: connections not accepted, datagrams not read."""

    connections: int = 0
    datagram_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.connections or self.datagram_bytes)


class SocketQueues:
    """A sock_diag socket in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
        self._socket.bind((0, 0))
        self._socket.settimeout(TIMEOUT_SECONDS)

    def close(self) -> None:
        self._socket.close()

    def unread_queues(self) -> UnreadQueues:
        return UnreadQueues(
            connections=self._waiting(socket.IPPROTO_TCP, LISTENING),
            datagram_bytes=self._waiting(socket.IPPROTO_UDP, ANY_STATE),
        )

    def _waiting(self, protocol: int, states: int) -> int:
        """Sum the receive queues of all sockets of a protocol. A listener's are its connections."""
        families = (socket.AF_INET, socket.AF_INET6)
        return sum(sum(self._queues(family, protocol, states)) for family in families)

    def _queues(self, family: int, protocol: int, states: int) -> Iterator[int]:
        body = REQUEST.pack(family, protocol, 0, states)
        head = HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, FLAGS, 0, 0)
        try:
            self._socket.send(head + body)
            while True:
                for kind, content in messages(self._socket.recv(RECEIVE_BYTES)):
                    if kind == NLMSG_DONE:
                        return
                    if kind == NLMSG_ERROR:
                        (code,) = struct.unpack_from("=i", content)
                        message = f"asking for sockets: {os.strerror(-code)}"
                        raise TransshipError(message, reason="NetworkFailed")
                    (waiting,) = RECEIVE_QUEUE.unpack_from(content)
                    yield waiting
        except OSError as e:
            raise TransshipError(f"asking for sockets: {e}", reason="NetworkFailed") from e


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _, _, _ = HEADER.unpack_from(data, offset)
        yield kind, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3
