"""The faults that tests use: crashed services, lost power, cut cables.

A kill is what a crash is: no handler runs, and of a node nothing more is heard. Every function
leaves the lab's record saying what is the case.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from transship.common.errors import InvalidInput
from transship.lab import services
from transship.lab.daemons import daemon_alive, kill_daemon, signal_daemon, stop_daemon
from transship.lab.nodes import network, nodes
from transship.lab.state import OPERATOR, Cut, Flow, LabState, save_state


class Kind(StrEnum):
    OPERATOR = "operator"
    AGENT = "agent"
    NODE = "node"


@dataclass(frozen=True)
class Target:
    """What is to fail; `member` is the host it is on."""

    kind: Kind
    member: str

    @property
    def daemon(self) -> str:
        return OPERATOR if self.kind is Kind.OPERATOR else services.agent_daemon(self.member)


def parse_target(text: str, state: LabState) -> Target:
    """One of operator, agent:NODE and node:NODE."""
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
        nodes.cut_power(directory, state, target.member)
    else:
        kill_daemon(directory, target.daemon)


def restart(directory: Path, state: LabState, target: Target) -> None:
    """Start it again, after ending it if it runs: a service in order, a node by its power."""
    if target.kind is Kind.NODE:
        nodes.cut_power(directory, state, target.member)
        nodes.boot_node(directory, state, target.member)
    else:
        stop_daemon(directory, target.daemon)
    if target.kind is Kind.OPERATOR:
        _revive_host(directory, state)
        services.start_operator(directory, state)
        services.await_operator(directory, state)
    else:
        services.start_agent(directory, state, target.member)
        services.await_agent(directory, state, target.member)


def hang(directory: Path, target: Target) -> None:
    """Stop a service where it stands (SIGSTOP): it answers nothing, and its connections stay."""
    signal_daemon(directory, target.daemon, signal.SIGSTOP)


def resume(directory: Path, target: Target) -> None:
    """Let a service that hangs go on where it was."""
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
    """Frames of one are lost on their way to the other, and back unless `one_way`.

    `percent` is how many of them, at random; with `flows` only those of these connections are.
    """
    if source == target:
        raise InvalidInput(f"{source} cannot be cut from itself")
    for member in (source, target):
        state.address(member)  # NotFound for one that the lab does not have
    if not 1 <= percent <= 100:
        raise InvalidInput(f"--percent is {percent}: 1 to 100 are possible")
    forth = Cut(source=source, target=target, percent=percent, flows=flows)
    back = Cut(
        source=target, target=source, percent=percent, flows=tuple(f.reversed for f in flows)
    )
    return _set_cuts(directory, state, {*state.cuts, forth, *(() if one_way else (back,))})


def heal(directory: Path, state: LabState) -> LabState:
    """Everyone reaches everyone again."""
    return _set_cuts(directory, state, set())


def limit_rate(directory: Path, state: LabState, rate: int | None) -> LabState:
    """Shape every node's link in both directions, in bits per second; None frees them."""
    state = save_state(directory, state.model_copy(update={"link_rate": rate}))
    for node in state.nodes:
        if nodes.node_alive(directory, node):
            network.set_rate(directory, state, node, pid=nodes.node_pid(directory, node))
    return state


def _set_cuts(directory: Path, state: LabState, cuts: set[Cut]) -> LabState:
    ordered = tuple(sorted(cuts, key=lambda cut: (cut.source, cut.target, cut.percent)))
    state = save_state(directory, state.model_copy(update={"cuts": ordered}))
    network.apply_cuts(directory, state)
    return state


def _revive_host(directory: Path, state: LabState) -> None:
    """The operator's host never fails on purpose, but may have been killed from outside."""
    if not nodes.node_alive(directory, OPERATOR):
        nodes.cut_power(directory, state, OPERATOR)
        nodes.boot_node(directory, state, OPERATOR)
    if daemon_alive(directory, OPERATOR):
        stop_daemon(directory, OPERATOR)
