"""Connections on which a dead peer is noticed within seconds.

TCP alone takes minutes to notice that a host was cut off, and in a handover somebody waits for it
with a frozen container in his hands (tcp(7): TCP_USER_TIMEOUT, TCP_KEEPIDLE and its kin).
"""

from __future__ import annotations

import socket

SILENCE_SECONDS = 3
"""A peer that acknowledges nothing for that long is gone: 15 times a lost packet's first retry."""


def make_prompt(sock: socket.socket) -> None:
    """Send small messages at once, and fail when the peer's host stays silent."""
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_USER_TIMEOUT, SILENCE_SECONDS * 1000),
        (socket.TCP_KEEPIDLE, 1),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, SILENCE_SECONDS - 1),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
