"""The TCP connections that two nodes have with each other just now, from the kernel."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from transship.lab.nodes import nodes
from transship.lab.state import Flow, LabState

ESTABLISHED = "01"


def between(state_dir: Path, state: LabState, one: str, other: str) -> tuple[Flow, ...]:
    """Seen from `one`: what it sends goes from source_port to target_port."""
    table = Path(f"/proc/{nodes.node_pid(state_dir, one)}/net/tcp").read_text()
    return tuple(_flows(table, peer=state.address(other)))


def _flows(table: str, *, peer: IPv4Address) -> Iterator[Flow]:
    for line in table.splitlines()[1:]:
        _, local, remote, status = line.split()[:4]
        address, _, port = remote.partition(":")
        if status == ESTABLISHED and _address(address) == peer:
            yield Flow(source_port=int(local.partition(":")[2], 16), target_port=int(port, 16))


def _address(text: str) -> IPv4Address:
    """The kernel writes the number as this machine has it in memory."""
    return IPv4Address(socket.htonl(int(text, 16)))
