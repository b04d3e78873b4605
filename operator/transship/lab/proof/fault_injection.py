"""Faults of services, nodes and the network: crashes, hangs, power cuts, lost packets.

A kill works like a crash: no handler runs, and a node sends nothing more. Every function keeps the
lab's record up to date.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path

from transship.common.errors import InvalidInput
from transship.lab import services
from transship.lab.daemons import daemon_alive, kill_daemon, signal_daemon, stop_daemon
from transship.lab.nodes import namespace_nodes, network
from transship.lab.state import OPERATOR, Cut, Flow, LabState, save_state

TCP_ESTABLISHED = "01"


class Kind(StrEnum):
    OPERATOR = "operator"
    AGENT = "agent"
    NODE = "node"


@dataclass(frozen=True)
class Target:
    """What a fault hits. `host` is the node, or the operator's host, that it runs on."""

    kind: Kind
    host: str

    @property
    def daemon(self) -> str:
        return OPERATOR if self.kind is Kind.OPERATOR else services.agent_daemon(self.host)


def parse_target(text: str, state: LabState) -> Target:
    """Read operator, agent:NODE or node:NODE. Raises InvalidInput."""
    kind, separator, node = text.partition(":")
    if text == Kind.OPERATOR:
        return Target(Kind.OPERATOR, OPERATOR)
    if not separator or kind not in {Kind.AGENT, Kind.NODE} or node not in state.nodes:
        raise InvalidInput(
            f"{text!r} is none of operator, agent:NODE and node:NODE",
            hint=f"NODE is one of {', '.join(state.nodes)}",
        )
    return Target(Kind(kind), node)


def kill(directory: Path, state: LabState, target: Target) -> None:
    if target.kind is Kind.NODE:
        namespace_nodes.cut_power(directory, state, target.host)
    else:
        kill_daemon(directory, target.daemon)


def restart(directory: Path, state: LabState, target: Target) -> None:
    """Start it again. First end what still runs: a service by SIGTERM, a node by a power cut."""
    if target.kind is Kind.NODE:
        namespace_nodes.cut_power(directory, state, target.host)
        namespace_nodes.boot_node(directory, state, target.host)
    else:
        stop_daemon(directory, target.daemon)
    if target.kind is Kind.OPERATOR:
        _ensure_operator_host(directory, state)
        services.start_operator(directory, state)
        services.await_operator(directory, state)
    else:
        services.start_agent(directory, state, target.host)
        services.await_agent(directory, state, target.host)


def hang(directory: Path, target: Target) -> None:
    """Stop a service by SIGSTOP: it answers nothing, and its connections stay open."""
    signal_daemon(directory, target.daemon, signal.SIGSTOP)


def resume(directory: Path, target: Target) -> None:
    """Let a service that hangs go on."""
    signal_daemon(directory, target.daemon, signal.SIGCONT)


def partition(
    directory: Path,
    state: LabState,
    *,
    source: str,
    target: str,
    one_way: bool = False,
    percent: int = 100,
    flows: tuple[Flow, ...] = (),
) -> LabState:
    """Drop frames from source to target, and from target to source unless `one_way`.

    `percent` of them are dropped, at random. With `flows`, only the frames of these connections.
    """
    if source == target:
        raise InvalidInput(f"{source} cannot be cut from itself")
    for host in (source, target):
        # raises NotFound for a host that the lab does not have
        state.address(host)
    if not 1 <= percent <= 100:
        raise InvalidInput(f"--percent is {percent}: 1 to 100 are possible")
    forth = Cut(source=source, target=target, percent=percent, flows=flows)
    back = Cut(
        source=target, target=source, percent=percent, flows=tuple(f.reversed for f in flows)
    )
    return _set_cuts(directory, state, {*state.cuts, forth, *(() if one_way else (back,))})


def heal(directory: Path, state: LabState) -> LabState:
    """Undo every partition."""
    return _set_cuts(directory, state, set())


def limit_rate(directory: Path, state: LabState, rate: int | None) -> LabState:
    """Limit every node's link in both directions, in bits per second; None removes the limit."""
    state = save_state(directory, state.model_copy(update={"link_rate": rate}))
    for node in state.nodes:
        if namespace_nodes.node_alive(directory, node):
            network.set_rate(directory, state, node, pid=namespace_nodes.node_pid(directory, node))
    return state


def _set_cuts(directory: Path, state: LabState, cuts: set[Cut]) -> LabState:
    ordered = tuple(sorted(cuts, key=lambda cut: (cut.source, cut.target, cut.percent)))
    state = save_state(directory, state.model_copy(update={"cuts": ordered}))
    network.apply_cuts(directory, state)
    return state


def _ensure_operator_host(directory: Path, state: LabState) -> None:
    """No fault ends the operator's host, but somebody else may have killed it."""
    if not namespace_nodes.node_alive(directory, OPERATOR):
        namespace_nodes.cut_power(directory, state, OPERATOR)
        namespace_nodes.boot_node(directory, state, OPERATOR)
    if daemon_alive(directory, OPERATOR):
        stop_daemon(directory, OPERATOR)


def restart_ended(directory: Path, state: LabState, targets: Iterable[Target]) -> None:
    """Start the services that have ended, as a service manager does.

    An operator that cannot renew its lease in time ends itself, for instance.
    """
    for target in targets:
        if not daemon_alive(directory, target.daemon):
            restart(directory, state, target)


def connections_between(directory: Path, state: LabState, one: str, other: str) -> tuple[Flow, ...]:
    """The established TCP connections of two hosts; `source_port` is the port on `one`."""
    table = Path(f"/proc/{namespace_nodes.node_pid(directory, one)}/net/tcp").read_text()
    return tuple(parse_tcp_table(table, peer=state.address(other)))


def parse_tcp_table(table: str, *, peer: IPv4Address) -> Iterator[Flow]:
    """The established connections with a peer, out of /proc/PID/net/tcp."""
    for line in table.splitlines()[1:]:
        _, local, remote, status = line.split()[:4]
        address, _, port = remote.partition(":")
        if status == TCP_ESTABLISHED and _parse_address(address) == peer:
            yield Flow(source_port=int(local.partition(":")[2], 16), target_port=int(port, 16))


def _parse_address(text: str) -> IPv4Address:
    """The kernel prints the number in host byte order."""
    return IPv4Address(socket.htonl(int(text, 16)))
