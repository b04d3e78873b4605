"""Starts talkers (see talker) in containers, on nodes and on the machine, and controls them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import talker
from world import World

from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.state import lab_dir

SOURCE = Path(talker.__file__).read_text()
READY = {"tcpSocket": {"port": talker.ORDERS}, "periodSeconds": 1}
IDLE_TIMEOUT_SECONDS = 100.0


class Place:
    """One talker, reached by the address of its orders."""

    def __init__(self, name: str, addresses: list[str]) -> None:
        self.name, self.addresses = name, addresses

    def address(self, *, ipv6: bool) -> str:
        return next(address for address in self.addresses if (":" in address) is ipv6)

    def order(self, name: str, *arguments: str) -> dict[str, Any]:
        target = (self.addresses[0], talker.ORDERS)
        with socket.create_connection(target, timeout=IDLE_TIMEOUT_SECONDS) as connection:
            connection.sendall(json.dumps([name, arguments]).encode() + b"\n")
            with connection.makefile("rb") as replies:
                reply: dict[str, Any] = json.loads(replies.readline())
        assert "error" not in reply, reply
        return reply


def contained(world: World, name: str, *, node: str) -> Place:
    """A container that talks."""
    container = {
        "image": world.image("counter"),
        "command": ["python3", "-c", "import os; exec(os.environ['PROGRAM'])"],
        "env": [{"name": "PROGRAM", "value": SOURCE}],
        "readinessProbe": READY,
    }
    world.apply(name, node=node, container=container)
    return Place(name, world.await_running(name, node=node)["addresses"])


@contextmanager
def on_hosts(world: World, *nodes: str) -> Iterator[list[Place]]:
    """Talkers on nodes, beside the containers, and the last one on the machine."""
    enters = [enter_words(lab_dir(world.lab.name), node) for node in nodes]
    with ExitStack() as running:
        for enter in [*enters, []]:
            running.enter_context(_talking([*enter, "python3", "-c", SOURCE, talker.TIED]))
        yield [
            Place(name, [str(world.lab.address(name)), str(world.lab.address_v6(name))])
            for name in (*nodes, "machine")
        ]


@contextmanager
def _talking(argv: list[str]) -> Iterator[None]:
    """A process that ends with its standard input, wherever it was started from."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == talker.READY
        yield


Report = dict[str, Any]
SMALL = {"ask", "idle", "unread", "queued"}  # kinds of which every repeated segment is looked at


def harm(report: Report, *, small: Collection[str] = SMALL) -> str:
    """What went wrong in a conversation, by the report of one end; empty if nothing did.

    TCP retransmits a segment that is not acknowledged in time, also one that is only held. When the
    held segment arrives, the retransmission is a duplicate, which the receiver reports (D-SACK, RFC
    2883). A retransmission without that report means a lost segment: the sender's timeout, not the
    release, ended the gap.
    """
    lost = report.get("total_retrans", 0) - report.get("dsack_dups", 0)
    if not report["error"] and report["kind"] in small and lost > 0:
        return f"{lost} segments were lost: {report}"
    return str(report["error"])


class Conversations:
    """Opens conversations between places, and checks them at their end."""

    def __init__(self, *, ipv6: bool) -> None:
        self._ipv6 = ipv6
        self._places: dict[str, Place] = {}
        self._names: set[str] = set()

    def open(self, kind: str, client: Place, server: Place) -> None:
        for place in (client, server):
            self._places[place.name] = place
        name = f"{kind} {client.name}->{server.name}"
        assert name not in self._names, name
        self._names.add(name)
        client.order("open", name, kind, server.address(ipv6=self._ipv6))

    def end_well(self, *, small: Collection[str] = SMALL) -> None:
        """End all conversations. None may be harmed; those of `small` may lose no segment."""
        for place in self._places.values():
            place.order("stop")
        harms = {name: harm(report, small=small) for name, report in self._reports("finish")}
        suffered = sorted(f"{name}: {text}" for name, text in harms.items() if text)
        assert not suffered, "\n".join(suffered)

    def _reports(self, order: str) -> Iterator[tuple[str, Report]]:
        for place in self._places.values():
            for role, talks in place.order(order).items():
                for name, report in talks.items():
                    yield f"{name} ({role}, {place.name})", report
