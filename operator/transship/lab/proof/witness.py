"""Asking a witness (the image of that name) to prove itself, over a connection of its own."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from transship.lab.proof.counter_client import PORT

TIMEOUT_SECONDS = 10.0
WHOLE = "whole "


@dataclass(frozen=True)
class Testimony:
    """The name of this run of it, the last number it gave, and what is broken if anything."""

    name: str
    last: int
    broken: str


def hear(address: str) -> Testimony:
    """Raises OSError when it does not answer."""
    with socket.create_connection((address, PORT), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(b"who\nprove\n")
        with connection.makefile("r", encoding="ascii") as lines:
            name, proof = lines.readline().strip(), lines.readline().strip()
    if not proof.startswith(WHOLE):
        return Testimony(name, 0, proof or "it closed the connection")
    return Testimony(name, int(proof.removeprefix(WHOLE)), "")
