"""A soak: many witnesses moved at random while things break at random, and the same checks always.

It goes in rounds: some placements are sent elsewhere, something breaks meanwhile, is mended, and
everything has to come to rest whole before the next round. What is random follows from the seed.
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
from transship.lab.proof import faults, guests, witness, world_check
from transship.lab.proof.breakage import Breakage, Ending, Missed
from transship.lab.proof.breakages import BREAKAGES
from transship.lab.proof.copies import CopyWatch, nodes_with_copies
from transship.lab.proof.counter_client import CounterClient
from transship.lab.proof.scene import OPERATOR, Scene, revive
from transship.lab.proof.world_check import Guest, World, until_none
from transship.lab.state import LabState, lab_dir, load_state
from transship.strategies import LIVE

CONTAINERS = 12
MOVES_PER_ROUND = (2, 6)
LONGEST_DELAY_SECONDS = 2.0  # of a fault after its round's first move
SETTLE_SECONDS = 180.0  # a failed move is tried again after 10 s, then 20 s
END_SECONDS = 120.0
SHOWN = 6  # of what is found again and again
CLIENT_PAUSE_SECONDS = 0.01
STRATEGIES = tuple(strategy.name for strategy in LIVE)


@dataclass
class Report:
    """What was done, and what was found."""

    seed: int
    minutes: float
    rounds: int = 0
    moves_ordered: int = 0
    migrations: dict[str, int] = field(default_factory=dict)  # by how they ended
    faults: dict[str, int] = field(default_factory=dict)
    restarted: int = 0  # containers whose node lost its power, or whose page server and guard died
    longest_blackout_milliseconds: int = 0
    violations: list[str] = field(default_factory=list)

    def figures(self) -> list[tuple[str, object]]:
        """For people, one line each."""
        return [
            ("minutes", self.minutes),
            ("rounds", self.rounds),
            ("moves ordered", self.moves_ordered),
            *((f"migrations {how}", count) for how, count in sorted(self.migrations.items())),
            *((f"fault: {name}", count) for name, count in sorted(self.faults.items())),
            ("containers started anew after their node or page server died", self.restarted),
            ("longest blackout, ms", self.longest_blackout_milliseconds),
            *(("VIOLATION", text) for text in self.violations),
        ]


class Soak:
    """One soak in one lab."""

    def __init__(self, world: World, *, seed: int, say: Say) -> None:
        self._world, self._say = world, say
        self._chance = random.Random(seed)  # noqa: S311
        self._guests: dict[str, Guest] = {}
        self._seen: set[str] = set()  # uids of migrations that are counted
        self._clients = ExitStack()
        self.report = Report(seed=seed, minutes=0)

    def run(self, *, minutes: float) -> Report:
        began = time.monotonic()
        with self._clients:
            self._start()
            ids = [guest.container for guest in self._guests.values()]
            with CopyWatch(self._world.state, ids) as watch:
                while time.monotonic() - began < minutes * 60 and not self.report.violations:
                    self._round()
                    self.report.violations += watch.twice[:SHOWN]
                for violation in self.report.violations:
                    self._say(f"violation: {violation}")
        self._end()
        self.report.minutes = round((time.monotonic() - began) / 60, 1)
        return self.report

    def _start(self) -> None:
        nodes = self._world.state.nodes
        for number in range(CONTAINERS):
            name, strategy = f"soak-{number}", STRATEGIES[number % len(STRATEGIES)]
            placement = guests.placement(
                self._world.state, name, node=nodes[number % len(nodes)], strategy=strategy
            )
            self._world.cluster.create(placement)
            self._guests[name] = Guest(name, "", "")
        for number, guest in enumerate(self._guests.values()):
            guests.await_running(self._world, guest, node=nodes[number % len(nodes)])
            self._meet(guest)

    def _meet(self, guest: Guest) -> None:
        """A new client on a connection of its own; what was acknowledged before stays known."""
        guest.acknowledged = guest.last_acknowledged
        guest.run = witness.hear(guest.address).name
        guest.restarted = False
        client = CounterClient(guest.address, pause_seconds=CLIENT_PAUSE_SECONDS)
        guest.client = self._clients.enter_context(client)

    def _round(self) -> None:
        self.report.rounds += 1
        movers = self._chance.sample(list(self._guests), self._chance.randint(*MOVES_PER_ROUND))
        breakage = self._chance.choice(USABLE)
        self._say(f"round {self.report.rounds}: {len(movers)} moves, {breakage.name}")
        for name in movers:
            self._send_elsewhere(name)
        time.sleep(self._chance.uniform(0, LONGEST_DELAY_SECONDS))
        scene = self._scene(movers[0])
        _count_one(self.report.faults, breakage.name)
        self._break(breakage, scene)
        self.report.violations += self._settle()
        self._count()

    def _send_elsewhere(self, name: str) -> None:
        placement = self._placement(name)
        elsewhere = [n for n in self._world.state.nodes if n != placement.spec.target_node]
        self._world.cluster.edit(name, {"targetNode": self._chance.choice(elsewhere)})
        self.report.moves_ordered += 1

    def _scene(self, name: str) -> Scene:
        """The fault's two nodes: those between which this placement moves, if it does."""
        placement = self._placement(name)
        target = placement.spec.target_node or ""
        source = placement.status.node or ""
        if source in {target, ""}:
            source = next(n for n in self._world.state.nodes if n != target)
        directory = lab_dir(self._world.state.name)
        guest = self._guests[name]
        return Scene(self._world.cluster, directory, name, guest.container, source, target)

    def _break(self, breakage: Breakage, scene: Scene) -> None:
        if breakage.dies is not None:
            self._expect_deaths(scene.node(breakage.dies))
        elif breakage.may_lose_memory:
            self._expect_deaths(scene.target)
        try:
            breakage.do(scene)
            time.sleep(breakage.seconds)  # the length of the fault, not a wait for something
        except TransshipError as e:
            if breakage.ending is not Ending.STAYS:  # there may be no move left to call back
                self.report.violations.append(f"{breakage.name}: {e.message}")
        finally:
            with suppress(Missed):
                breakage.undo(scene)

    def _expect_deaths(self, node: str) -> None:
        """Whoever has processes there, or moves there or from there, may be started anew."""
        for guest in self._guests.values():
            placement = self._placement(guest.name)
            touched = {placement.spec.target_node, placement.status.node}
            where = nodes_with_copies(self._world.state, guest.container)
            guest.restarted = node in touched or node in where

    def _settle(self) -> list[str]:
        findings = until_none(self._unsettled, seconds=SETTLE_SECONDS)
        for guest in self._guests.values():
            if guest.restarted and not findings:
                if witness.hear(guest.address).name != guest.run:
                    self.report.restarted += 1
                self._meet(guest)
        return findings

    def _unsettled(self) -> list[str]:
        state = self._world.state
        agents = (faults.Target(faults.Kind.AGENT, node) for node in state.nodes)
        revive(lab_dir(state.name), state, (OPERATOR, *agents))
        for guest in self._guests.values():
            placement = self._placement(guest.name)
            if is_true(placement.status.conditions, "Stalled") and placement.status.node:
                # it has failed as often as it may: it stays, as a user would decide then
                self._world.cluster.edit(guest.name, {"targetNode": placement.status.node})
            found = world_check.whole(self._world, guest, node=_belongs_on(placement))
            if found:
                return found
        return []

    def _placement(self, name: str) -> ContainerPlacement:
        placement = self._world.cluster.placement(name)
        if placement is None:
            raise TransshipError(f"placement {name} is gone")
        return placement

    def _count(self) -> None:
        for migration in self._world.cluster.all_migrations():
            uid, status = migration.metadata.uid or "", migration.status
            if uid in self._seen or status.phase is None or not status.phase.finished:
                continue
            self._seen.add(uid)
            _count_one(self.report.migrations, _how(status.phase, status.reason))
            longest = max(
                self.report.longest_blackout_milliseconds, status.blackout_milliseconds or 0
            )
            self.report.longest_blackout_milliseconds = longest

    def _end(self) -> None:
        """Nothing of all that may be left."""
        faults.heal(lab_dir(self._world.state.name), load_state(lab_dir(self._world.state.name)))
        for name in self._guests:
            self._world.cluster.delete(name)
        self.report.violations += until_none(self._remains, seconds=END_SECONDS)

    def _remains(self) -> list[str]:
        left = [
            f"placement {p.metadata.name} does not go" for p in self._world.cluster.placements()
        ]
        return left or [
            *(item for node in self._world.state.nodes for item in self._world.leftovers(node)),
            *self._world.forwards(),
        ]


USABLE = tuple(each for each in BREAKAGES if each.ending is not Ending.DELETED)


def _count_one(counts: dict[str, int], what: str) -> None:
    counts[what] = counts.get(what, 0) + 1


def _belongs_on(placement: ContainerPlacement) -> str:
    """Where it has to be in the end: a move that its user cancelled is not made."""
    cancelled = placement.status.cancelled_generation == placement.metadata.generation
    node = placement.status.node if cancelled else placement.spec.target_node
    return node or ""


def _how(phase: MigrationPhase, reason: str | None) -> str:
    return phase.value if phase is MigrationPhase.SUCCEEDED else f"{phase.value}: {reason}"


def soak(state: LabState, *, minutes: float, seed: int, say: Say) -> Report:
    """Run one in a lab without placements."""
    with guests.at_rest(state) as world:
        return Soak(world, seed=seed, say=say).run(minutes=minutes)
