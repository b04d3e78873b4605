"""Chooses free TCP ports for a lab's servers, outside the range of outgoing connections."""

from __future__ import annotations

import secrets
import socket

# below the ephemeral ports (from 32768), which the kernel gives to clients at any moment
FIRST_PORT, LAST_PORT = 20000, 32767

ANY_ADDRESS = "0.0.0.0"


def free_port(*, address: str = ANY_ADDRESS, preferred: int | None = None) -> int:
    """A port on which nobody listens at that address. It is random, so two labs rarely collide."""
    if preferred is not None and is_free(preferred, address=address):
        return preferred
    span = LAST_PORT - FIRST_PORT + 1
    start = secrets.randbelow(span)
    candidates = (FIRST_PORT + (start + step) % span for step in range(span))
    return next(port for port in candidates if is_free(port, address=address))


def is_free(port: int, *, address: str = ANY_ADDRESS) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do, so that connections in TIME_WAIT do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
