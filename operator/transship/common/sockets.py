"""TCP settings with which a dead peer is noticed within seconds.

TCP alone takes minutes to notice that a host is gone. In a handover, a frozen container waits for
that. See tcp(7): TCP_USER_TIMEOUT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT.
"""

from __future__ import annotations

import socket

SILENCE_SECONDS = 3
"""A peer that acknowledges nothing for this long is dead: 15 times TCP's first retransmission."""


def detect_dead_peers(sock: socket.socket) -> None:
    """Make the socket send small messages at once, and fail when the peer's host is silent."""
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000),
        (socket.TCP_KEEPIDLE, 1),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, SILENCE_SECONDS - 1),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
