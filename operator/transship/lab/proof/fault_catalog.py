"""All faults of the fault tests and the soak, by name.

A test injects a fault while the move waits at a step, lets the move go on, and recovers after the
fault's duration. The names are keys of docs/reliability.json.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from transship.lab.control_plane.kubernetes import API_SERVER
from transship.lab.daemons import daemon_alive, signal_daemon
from transship.lab.nodes.network import parse_rate
from transship.lab.proof import fault_injection, node_faults
from transship.lab.proof.fault import Action, Fault, Move, Outcome, Side
from transship.lab.proof.fault_injection import Kind, Target
from transship.lab.proof.program_faults import PROGRAM_FAULTS
from transship.lab.state import MACHINE, OPERATOR

# longer than the 5 s that an agent waits for another agent's answer
CUT_SECONDS = 7.0
HANG_SECONDS = 7.0
API_SERVER_HANG_SECONDS = 60.0
# longer than the Kubernetes client's timeout of 10 s
API_CUT_SECONDS = 12.0
SLOW_SECONDS = 6.0
SLOW_RATE = "1mbit"
DOWN_SECONDS = 1.0
# a change takes so long from the API server over the operator to an agent
PROPAGATION_SECONDS = 1.0
NODE_FAULT_SECONDS = 3.0
ONE_YEAR_DAYS = 365

OPERATOR_SERVICE = Target(Kind.OPERATOR, OPERATOR)


def _agent_killed(side: Side) -> Fault:
    return Fault(
        f"{side}'s agent killed",
        lambda move: fault_injection.kill(move.directory, move.state, move.agent(side)),
        lambda move: fault_injection.restart(move.directory, move.state, move.agent(side)),
        DOWN_SECONDS,
    )


def _agent_hung(side: Side) -> Fault:
    return Fault(
        f"{side}'s agent hung",
        lambda move: fault_injection.hang(move.directory, move.agent(side)),
        lambda move: fault_injection.resume(move.directory, move.agent(side)),
        HANG_SECONDS,
    )


def _power_cut(side: Side) -> Fault:
    return Fault(
        f"{side}'s power cut",
        lambda move: fault_injection.kill(move.directory, move.state, move.power(side)),
        lambda move: fault_injection.restart(move.directory, move.state, move.power(side)),
        DOWN_SECONDS,
        kills_node=side,
    )


def _partition(
    name: str,
    ends: Callable[[Move], tuple[str, str]],
    *,
    one_way: bool = False,
    percent: int = 100,
    seconds: float = CUT_SECONDS,
) -> Fault:
    def inject(move: Move) -> None:
        source, target = ends(move)
        fault_injection.partition(
            move.directory,
            move.state,
            source=source,
            target=target,
            one_way=one_way,
            percent=percent,
        )

    return Fault(name, inject, _heal, seconds)


def _heal(move: Move) -> None:
    fault_injection.heal(move.directory, move.state)


def _half_open(ends: Callable[[Move], tuple[str, str]]) -> Action:
    """Drop all packets of the present connections; new connections work."""

    def inject(move: Move) -> None:
        one, other = ends(move)
        directory, state = move.directory, move.state
        if flows := fault_injection.connections_between(directory, state, one, other):
            fault_injection.partition(directory, state, source=one, target=other, flows=flows)

    return inject


def _slow(rate: str | None) -> Action:
    bits = None if rate is None else parse_rate(rate)
    return lambda move: fault_injection.limit_rate(move.directory, move.state, bits)


def _restart_agent(side: Side) -> Action:
    return lambda move: fault_injection.restart(move.directory, move.state, move.agent(side))


def _on_node(action: Callable[[Path, str], object], side: Side) -> Action:
    return lambda move: action(move.directory, move.node(side))


def _disk_full(side: Side) -> Fault:
    return Fault(
        f"{side}'s disk full",
        _on_node(node_faults.fill_disk, side),
        _on_node(node_faults.free_disk, side),
        NODE_FAULT_SECONDS,
    )


def _journal_unwritable(side: Side) -> Fault:
    return Fault(
        f"{side}'s journal unwritable",
        _on_node(node_faults.make_journal_readonly, side),
        _on_node(node_faults.make_journal_writable, side),
        NODE_FAULT_SECONDS,
    )


def _out_of_descriptors(side: Side) -> Fault:
    return Fault(
        f"{side}'s agent out of descriptors",
        _on_node(node_faults.limit_descriptors, side),
        _on_node(node_faults.restore_descriptors, side),
        NODE_FAULT_SECONDS,
    )


def _out_of_memory(side: Side) -> Fault:
    def recover(move: Move) -> None:
        """Start the agent again if the OOM killer ended it, as a service manager does."""
        if not daemon_alive(move.directory, move.agent(side).daemon):
            _restart_agent(side)(move)
        node_faults.restore_memory(move.state, move.node(side))

    return Fault(
        f"{side}'s agent out of memory",
        lambda move: node_faults.limit_memory(move.directory, move.state, move.node(side)),
        recover,
        NODE_FAULT_SECONDS,
    )


def _certificate_expired(side: Side) -> Fault:
    def certified(days: int) -> Action:
        def act(move: Move) -> None:
            node_faults.issue_certificate(move.directory, move.state, move.node(side), days=days)
            _restart_agent(side)(move)

        return act

    return Fault(
        f"{side}'s certificate expired", certified(0), certified(ONE_YEAR_DAYS), NODE_FAULT_SECONDS
    )


def _edit_back(move: Move) -> None:
    move.resources.edit(move.placement, {"targetNode": move.source})


def _delete_migration(move: Move) -> None:
    move.resources.delete_migration(move.resources.migrations(move.placement)[-1].metadata.name)


def _agents(move: Move) -> tuple[str, str]:
    return move.source, move.target


def _operator_and_server(_move: Move) -> tuple[str, str]:
    return OPERATOR, MACHINE


FAULTS: tuple[Fault, ...] = (
    *(make(side) for side in Side for make in (_agent_killed, _agent_hung, _power_cut)),
    Fault(
        "operator killed",
        lambda move: fault_injection.kill(move.directory, move.state, OPERATOR_SERVICE),
        lambda move: fault_injection.restart(move.directory, move.state, OPERATOR_SERVICE),
        DOWN_SECONDS,
    ),
    Fault(
        "API server away",
        lambda move: signal_daemon(move.directory, API_SERVER, signal.SIGSTOP),
        lambda move: signal_daemon(move.directory, API_SERVER, signal.SIGCONT),
        API_SERVER_HANG_SECONDS,
    ),
    _partition("agents cut", _agents),
    _partition("source not heard", _agents, one_way=True),
    _partition("target not heard", lambda move: (move.target, move.source), one_way=True),
    _partition("operator and source cut", lambda move: (OPERATOR, move.source)),
    _partition("operator and target cut", lambda move: (OPERATOR, move.target)),
    _partition("operator and API server cut", _operator_and_server, seconds=API_CUT_SECONDS),
    Fault("connections half-open", _half_open(_agents), _heal, CUT_SECONDS),
    Fault("operator's watches half-open", _half_open(_operator_and_server), _heal, CUT_SECONDS),
    _partition("1 % loss", _agents, percent=1, seconds=SLOW_SECONDS),
    Fault("slow link", _slow(SLOW_RATE), _slow(None), SLOW_SECONDS),
    *(
        make(side)
        for side in Side
        for make in (
            _disk_full,
            _journal_unwritable,
            _out_of_memory,
            _out_of_descriptors,
            _certificate_expired,
        )
    ),
    *PROGRAM_FAULTS,
    Fault("edited back", _edit_back, outcome=Outcome.AT_SOURCE, lead_seconds=PROPAGATION_SECONDS),
    Fault(
        "migration deleted",
        _delete_migration,
        outcome=Outcome.AT_SOURCE,
        lead_seconds=PROPAGATION_SECONDS,
    ),
    Fault(
        "placement deleted",
        lambda move: move.resources.delete(move.placement),
        outcome=Outcome.DELETED,
    ),
)
