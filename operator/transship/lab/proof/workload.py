"""The witness as a workload: its placement, and a check of what it remembers.

The witness is a sample image. It numbers its answers and keeps each of them, in memory and in a
file, so that it can prove on request that nothing is lost or changed.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from transship.api.base import ObjectMeta
from transship.api.container import Container, EnvVar, Probe, TcpSocketAction
from transship.api.placement import ContainerPlacement, MigrationSettings, PlacementSpec, Strategy
from transship.lab.proof.counter_client import PORT, CounterClient
from transship.lab.proof.resources import NAMESPACE
from transship.lab.state import LabState

MEMORY_MIB, DIRTY_MIB_PER_SECOND = 16, 4
ANSWER_TIMEOUT_SECONDS = 10.0
INTACT = "whole "
LISTENS = Probe(tcp_socket=TcpSocketAction(port=PORT), period_seconds=1)


@dataclass
class Workload:
    """A witness under test, and what the test knows about it. `container` is the placement's uid.

    `run` is the name that the program gave itself at its start; a new one means a restart.
    """

    name: str
    container: str = ""
    address: str = ""
    run: str = ""
    client: CounterClient | None = None
    acknowledged: int = 0
    """The highest number that earlier clients received."""
    may_restart: bool = False
    """A fault ended its node or its page server: a restart is no violation."""

    @property
    def last_acknowledged(self) -> int:
        return max(self.acknowledged, 0 if self.client is None else self.client.number)


@dataclass(frozen=True)
class WitnessReport:
    """The name of the program's run, its last number, and what is corrupt, if anything."""

    run: str
    last_number: int
    corruption: str


def query_witness(address: str) -> WitnessReport:
    """Ask a witness to prove itself, on a new connection. Raises OSError without an answer."""
    with socket.create_connection((address, PORT), timeout=ANSWER_TIMEOUT_SECONDS) as connection:
        connection.sendall(b"who\nprove\n")
        with connection.makefile("r", encoding="ascii") as lines:
            run, proof = lines.readline().strip(), lines.readline().strip()
    if not proof.startswith(INTACT):
        return WitnessReport(run, 0, proof or "it closed the connection")
    return WitnessReport(run, int(proof.removeprefix(INTACT)), "")


def witness_placement(
    state: LabState, name: str, *, node: str, strategy: Strategy, retries: bool = True
) -> ContainerPlacement:
    """A placement that runs the witness. Without `retries` a failed move is final."""
    env = (
        EnvVar(name="MEMORY_MIB", value=str(MEMORY_MIB)),
        EnvVar(name="DIRTY_MIB_PER_SECOND", value=str(DIRTY_MIB_PER_SECOND)),
    )
    backoff_limit = None if retries else 0
    return ContainerPlacement(
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=PlacementSpec(
            target_node=node,
            container=Container(
                image=f"{state.registry}/witness:1", env=env, readiness_probe=LISTENS
            ),
            migration=MigrationSettings(strategy=strategy, backoff_limit=backoff_limit),
        ),
    )
