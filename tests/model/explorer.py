"""Every state that can be reached, the shortest way to it, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from model.node import Nodes
from model.overseer import Overseer
from model.rules import Rules
from model.scene import NODES, Scene
from model.source import Source
from model.target import Target
from model.world import DOWN, Copy, Fact, Move, Step, World, has
from transship.agent.journal.record import OWNED
from transship.agentapi.states import RecordState

COPIES = {
    Copy.ABSENT: "no copy", Copy.RUNNING: "RUNNING", Copy.FROZEN: "frozen", Copy.HELD: "held",
}  # fmt: skip
GIVEN_UP = frozenset({RecordState.RELEASED, RecordState.INCOMING, None})
FORBIDDEN = frozenset({RecordState.RELEASED, RecordState.INCOMING, RecordState.HELD, None})


@dataclass(frozen=True)
class Bounds:
    """What may happen. Agents may always be killed, messages lost, late and repeated."""

    moves: tuple[Move, ...]
    disks_fail: bool = True
    power_fails: bool = True


THERE = Move(0, "move", source=0, epoch=1)
POST_COPY = Move(0, "post-copy", source=0, epoch=1, follows=True)
AGAIN = Move(1, "retry", source=0, epoch=1)
BACK = Move(1, "move-back", source=1, epoch=2)


@dataclass(frozen=True)
class Violation:
    """What must never be, and the shortest way there."""

    broken: str
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {line}" for number, line in enumerate(self.trace, start=1)]
        return "\n".join([self.broken, *lines])


class Explorer:
    """One scenario, explored breadth first: the first way to a state is the shortest."""

    def __init__(self, bounds: Bounds, rules: Rules | None = None) -> None:
        self.scene = scene = Scene(bounds.moves, rules or Rules())
        self._source = Source(scene, disks_fail=bounds.disks_fail)
        self._target = Target(scene, disks_fail=bounds.disks_fail)
        self._nodes = Nodes(scene, power_fails=bounds.power_fails)
        self._overseer = Overseer(scene, self._source, self._target, self._nodes)
        self.worlds: list[World] = []
        self._came_from: list[tuple[int, tuple[str, ...]]] = []
        self._fair_ways_to: list[list[int]] = []
        self.transitions = 0

    def explore(self) -> Violation | None:
        """Look at everything; the first violation ends it."""
        start = self.scene.start()
        places = {start: 0}
        self._add(start, origin=-1, name=())
        place = 0
        while place < len(self.worlds):
            for step in self._steps(self.worlds[place]):
                self.transitions += 1
                known = places.get(step.world)
                if known is None:
                    known = places[step.world] = len(self.worlds)
                    self._add(step.world, origin=place, name=step.name)
                    if broken := self._broken(step.world):
                        return Violation(broken, self._trace(known))
                if step.fair and known != place:
                    self._fair_ways_to[known].append(place)
            place += 1
        return self._unsettled()

    def _steps(self, world: World) -> Iterator[Step]:
        for at in (0, 1):
            yield from self._nodes.steps(world, at)
        for move in self.scene.moves:
            if has(world, move, Fact.CREATED):
                yield from self._source.steps(world, move)
                yield from self._target.steps(world, move)
            yield from self._overseer.steps(world, move)

    def _add(self, world: World, *, origin: int, name: tuple[str, ...]) -> None:
        self.worlds.append(world)
        self._came_from.append((origin, name))
        self._fair_ways_to.append([])

    def _broken(self, world: World) -> str:
        """Safety: what is wrong with this state by itself."""
        here, there = world.nodes
        if here.copy == there.copy == Copy.RUNNING:
            return "two copies run"
        for at, node in enumerate(world.nodes):
            state = self.scene.state(node.disk)
            if node.copy == Copy.RUNNING and state in FORBIDDEN:
                return f"{NODES[at]} runs a copy, and its record says {state}"
        for move in self.scene.moves:
            permitted = has(world, move, Fact.PROMISED | Fact.FENCED)
            if has(world, move, Fact.ARRIVED) and not permitted:
                return f"the target of {move.name} owns the container without a release"
            waits = move.follows and self.scene.awaits_memory(world, move.target)
            source = world.nodes[move.source]
            if waits and source.copy != Copy.FROZEN and not source.rebooted:
                return "a copy waits for memory that nobody has any more"
            if has(world, move, Fact.LOST):
                return "the container is started from its image although no node lost power"
        return ""

    def _unsettled(self) -> Violation | None:
        """Liveness: from everywhere a fair continuation ends with exactly one copy that runs."""
        settled = [n for n, world in enumerate(self.worlds) if self.is_settled(world)]
        reached = _backwards(settled, self._fair_ways_to.__getitem__, size=len(self.worlds))
        stuck = next((n for n, good in enumerate(reached) if not good), None)
        if stuck is None:
            return None
        return Violation("with both agents back, no copy ever runs by right", self._trace(stuck))

    def is_settled(self, world: World) -> bool:
        """One copy runs, its node alone owns the container, and nothing is left of any move."""
        owners = [
            at for at, node in enumerate(world.nodes)
            if node.copy == Copy.RUNNING
            and node.disk == node.memory
            and self.scene.state(node.disk) in OWNED
            and self.scene.ledger.record(node.disk).migration is None
        ]  # fmt: skip
        others = [n for n in world.nodes if n.copy != Copy.RUNNING and n.memory != DOWN]
        return (
            len(owners) == len(others) == 1
            and others[0].copy == Copy.ABSENT
            and self.scene.state(others[0].memory) in {None, RecordState.RELEASED}
            # a disk that failed may have what the agent does not know: its next start discards it
            and self.scene.state(others[0].disk) in GIVEN_UP
        )

    def _trace(self, place: int) -> tuple[str, ...]:
        lines = []
        while place > 0:
            origin, name = self._came_from[place]
            lines.append(f"{' '.join(name):62} {self.picture(self.worlds[place])}")
            place = origin
        return tuple(reversed(lines))

    def picture(self, world: World) -> str:
        """For people: what is on both nodes."""
        return " | ".join(self._node_picture(world, at) for at in (0, 1))

    def _node_picture(self, world: World, at: int) -> str:
        node = world.nodes[at]
        record = self.scene.ledger.maybe(node.disk)
        written = "no record" if record is None else f"{record.state}({record.epoch})"
        down = ", agent down" if node.memory == DOWN else ""
        return f"{written}, {COPIES[node.copy]}{down}"


def _backwards(goals: list[int], ways_to: Callable[[int], list[int]], *, size: int) -> list[bool]:
    reached = [False] * size
    for goal in goals:
        reached[goal] = True
    todo = list(goals)
    while todo:
        for origin in ways_to(todo.pop()):
            if not reached[origin]:
                reached[origin] = True
                todo.append(origin)
    return reached
