"""The soak test: many witnesses, moved at random under random faults, with the same checks always.

It runs in rounds. Each round edits the target of some placements, injects one fault, recovers from
it, and waits until every invariant holds again. The seed determines all random choices.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from transship.api.conditions import is_true
from transship.api.migration import MigrationPhase
from transship.api.placement import ContainerPlacement
from transship.common.errors import TransshipError
from transship.lab.cache import Say
from transship.lab.proof import fault_injection, invariants, observed_lab
from transship.lab.proof.counter_client import CounterClient
from transship.lab.proof.fault import Fault, Move, NotTriggered, Outcome
from transship.lab.proof.fault_catalog import FAULTS, OPERATOR_SERVICE
from transship.lab.proof.invariants import until_none
from transship.lab.proof.observed_lab import ObservedLab
from transship.lab.proof.single_copy import SingleCopyMonitor, nodes_with_copies
from transship.lab.proof.workload import Workload, query_witness, witness_placement
from transship.lab.state import LabState, lab_dir, load_state
from transship.strategies import LIVE

CONTAINERS = 12
MOVES_PER_ROUND = (2, 6)
# between the edits of a round and its fault
LONGEST_DELAY_SECONDS = 2.0
# a failed move is tried again after 10 s, then after 20 s
SETTLE_TIMEOUT_SECONDS = 180.0
END_TIMEOUT_SECONDS = 120.0
# the monitor may find the same violation again and again
MAX_COPY_VIOLATIONS = 6
CLIENT_PAUSE_SECONDS = 0.01
STRATEGIES = tuple(strategy.name for strategy in LIVE)
SOAK_FAULTS = tuple(fault for fault in FAULTS if fault.outcome is not Outcome.DELETED)


@dataclass
class Report:
    """What the soak did and found. `migrations` are counted by how they ended."""

    seed: int
    minutes: float
    rounds: int = 0
    moves_ordered: int = 0
    migrations: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    restarted: int = 0
    """Restarts that the fault explains: the node or the page server of the container ended."""
    longest_blackout_milliseconds: int = 0
    violations: list[str] = field(default_factory=list)

    def figures(self) -> list[tuple[str, object]]:
        """The report as lines of a table."""
        return [
            ("minutes", self.minutes),
            ("rounds", self.rounds),
            ("moves ordered", self.moves_ordered),
            *((f"migrations {how}", count) for how, count in sorted(self.migrations.items())),
            *((f"fault: {name}", count) for name, count in sorted(self.faults.items())),
            ("containers restarted after their node or page server ended", self.restarted),
            ("longest blackout, ms", self.longest_blackout_milliseconds),
            *(("VIOLATION", text) for text in self.violations),
        ]


class Soak:
    """One soak in one lab."""

    def __init__(self, lab: ObservedLab, *, seed: int, say: Say) -> None:
        self._lab, self._say = lab, say
        self._chance = random.Random(seed)  # noqa: S311
        self._workloads: dict[str, Workload] = {}
        self._counted: set[str] = set()
        self._clients = ExitStack()
        self.report = Report(seed=seed, minutes=0)

    def run(self, *, minutes: float) -> Report:
        began = time.monotonic()
        with self._clients:
            self._start()
            ids = [workload.container for workload in self._workloads.values()]
            with SingleCopyMonitor(self._lab.state, ids) as monitor:
                while time.monotonic() - began < minutes * 60 and not self.report.violations:
                    self._round()
                    self.report.violations += monitor.violations[:MAX_COPY_VIOLATIONS]
                for violation in self.report.violations:
                    self._say(f"violation: {violation}")
        self._end()
        self.report.minutes = round((time.monotonic() - began) / 60, 1)
        return self.report

    def _start(self) -> None:
        nodes = self._lab.state.nodes
        for number in range(CONTAINERS):
            name, strategy = f"soak-{number}", STRATEGIES[number % len(STRATEGIES)]
            placement = witness_placement(
                self._lab.state, name, node=nodes[number % len(nodes)], strategy=strategy
            )
            self._lab.resources.create(placement)
            self._workloads[name] = Workload(name)
        for number, workload in enumerate(self._workloads.values()):
            observed_lab.await_running(self._lab, workload, node=nodes[number % len(nodes)])
            self._connect(workload)

    def _connect(self, workload: Workload) -> None:
        """Connect a new client. What earlier clients received stays known."""
        workload.acknowledged = workload.last_acknowledged
        workload.run = query_witness(workload.address).run
        workload.may_restart = False
        client = CounterClient(workload.address, pause_seconds=CLIENT_PAUSE_SECONDS)
        workload.client = self._clients.enter_context(client)

    def _round(self) -> None:
        self.report.rounds += 1
        moved_names = self._chance.sample(
            list(self._workloads), self._chance.randint(*MOVES_PER_ROUND)
        )
        fault = self._chance.choice(SOAK_FAULTS)
        self._say(f"round {self.report.rounds}: {len(moved_names)} moves, {fault.name}")
        for name in moved_names:
            self._send_elsewhere(name)
        time.sleep(self._chance.uniform(0, LONGEST_DELAY_SECONDS))
        move = self._move(moved_names[0])
        _increment(self.report.faults, fault.name)
        self._inject(fault, move)
        self.report.violations += self._settle()
        self._count_migrations()

    def _send_elsewhere(self, name: str) -> None:
        placement = self._placement(name)
        elsewhere = [n for n in self._lab.state.nodes if n != placement.spec.target_node]
        self._lab.resources.edit(name, {"targetNode": self._chance.choice(elsewhere)})
        self.report.moves_ordered += 1

    def _move(self, name: str) -> Move:
        """The two nodes that the fault hits: those of this placement's move, if it moves."""
        placement = self._placement(name)
        target = placement.spec.target_node or ""
        source = placement.status.node or ""
        if source in {target, ""}:
            source = next(n for n in self._lab.state.nodes if n != target)
        directory = lab_dir(self._lab.state.name)
        workload = self._workloads[name]
        return Move(self._lab.resources, directory, name, workload.container, source, target)

    def _inject(self, fault: Fault, move: Move) -> None:
        if fault.kills_node is not None:
            self._allow_restarts(move.node(fault.kills_node))
        elif fault.may_lose_memory:
            self._allow_restarts(move.target)
        try:
            fault.inject(move)
            # the duration of the fault, not a wait for something
            time.sleep(fault.duration_seconds)
        except TransshipError as e:
            # the move that it cancels may have ended already
            if fault.outcome is not Outcome.AT_SOURCE:
                self.report.violations.append(f"{fault.name}: {e.message}")
        finally:
            with suppress(NotTriggered):
                fault.recover(move)

    def _allow_restarts(self, node: str) -> None:
        """Containers with processes on this node, or on their way from or to it, may restart."""
        for workload in self._workloads.values():
            placement = self._placement(workload.name)
            ends = {placement.spec.target_node, placement.status.node}
            nodes = nodes_with_copies(self._lab.state, workload.container)
            workload.may_restart = node in ends or node in nodes

    def _settle(self) -> list[str]:
        findings = until_none(self._violations, seconds=SETTLE_TIMEOUT_SECONDS)
        for workload in self._workloads.values():
            if workload.may_restart and not findings:
                if query_witness(workload.address).run != workload.run:
                    self.report.restarted += 1
                self._connect(workload)
        return findings

    def _violations(self) -> list[str]:
        state = self._lab.state
        agents = (fault_injection.Target(fault_injection.Kind.AGENT, node) for node in state.nodes)
        services = (OPERATOR_SERVICE, *agents)
        fault_injection.restart_ended(lab_dir(state.name), state, services)
        for workload in self._workloads.values():
            placement = self._placement(workload.name)
            if is_true(placement.status.conditions, "Stalled") and placement.status.node:
                # the move failed for the last time: keep it where it is, as a user would
                self._lab.resources.edit(workload.name, {"targetNode": placement.status.node})
            findings = invariants.violations(
                self._lab.resources, state, workload, node=_expected_node(placement)
            )
            if findings:
                return findings
        return []

    def _placement(self, name: str) -> ContainerPlacement:
        placement = self._lab.resources.placement(name)
        if placement is None:
            raise TransshipError(f"placement {name} is gone")
        return placement

    def _count_migrations(self) -> None:
        for migration in self._lab.resources.all_migrations():
            uid, status = migration.metadata.uid or "", migration.status
            if uid in self._counted or status.phase is None or not status.phase.finished:
                continue
            self._counted.add(uid)
            _increment(self.report.migrations, _ending(status.phase, status.reason))
            longest = max(
                self.report.longest_blackout_milliseconds, status.blackout_milliseconds or 0
            )
            self.report.longest_blackout_milliseconds = longest

    def _end(self) -> None:
        """Delete everything and check that nothing is left."""
        fault_injection.heal(
            lab_dir(self._lab.state.name), load_state(lab_dir(self._lab.state.name))
        )
        for name in self._workloads:
            self._lab.resources.delete(name)
        self.report.violations += until_none(self._remains, seconds=END_TIMEOUT_SECONDS)

    def _remains(self) -> list[str]:
        findings = [
            f"placement {p.metadata.name} does not go" for p in self._lab.resources.placements()
        ]
        return findings or [*self._lab.all_leftovers(), *self._lab.stale_routes()]


def _increment(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _expected_node(placement: ContainerPlacement) -> str:
    """The node where it has to run in the end; a cancelled move is not made."""
    cancelled = placement.status.cancelled_generation == placement.metadata.generation
    node = placement.status.node if cancelled else placement.spec.target_node
    return node or ""


def _ending(phase: MigrationPhase, reason: str | None) -> str:
    return phase.value if phase is MigrationPhase.SUCCEEDED else f"{phase.value}: {reason}"


def soak(state: LabState, *, minutes: float, seed: int, say: Say) -> Report:
    """Run a soak in a lab without placements."""
    with observed_lab.idle_lab(state) as lab:
        return Soak(lab, seed=seed, say=say).run(minutes=minutes)
