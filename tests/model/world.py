"""A world: what is on both nodes, how far their roles are, and which messages may still arrive.

Plain numbers instead of enums: worlds are compared and hashed millions of times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

DOWN = -1
"""In place of a record's number: the agent does not run."""


class Copy:
    """A container as the kernel has it. Frozen is the source's, held the target's."""

    ABSENT, RUNNING, FROZEN, HELD = range(4)


class Outgoing:
    """How far a source is, in its memory: agent/migration/source.

    FREEZING: Frozen is written, the tasks run. UNSURE: the disk failed at Released. THAWING:
    Aborted is written, or may come later. OWING: it runs on, Aborted is still to be written.
    HEARD: the target runs. OVER: the container stays here.
    """

    (
        NONE, COPYING, FREEZING, FROZEN, UNSURE, ROLLING_BACK, THAWING, OWING, RELEASED, HEARD,
        FORGETTING, DONE, OVER,
    ) = range(13)  # fmt: skip


class Incoming:
    """How far a target is, in its memory: agent/migration/target/target.py.

    VACATING: what an earlier move has left is to go first. RESTORING: CRIU is done, Held is not
    written. GOING: Running is written. REMOVING: the copy is gone, its record is not.
    """

    (
        NONE, VACATING, PREPARING, PREPARED, RESTORING, HELD, GOING, RUNNING, DISCARDING, REMOVING,
        OVER,
    ) = range(11)  # fmt: skip


class Fencing:
    """Whether an administrator has declared a node gone for good, and was wrong."""

    NEVER, GONE, RETURNED = range(3)


class Fact:
    """What has happened in one migration. Messages stay: they can come late, and again.

    CREATED and OVER are the operator's: from then on it may order, or have both sides forget.
    WHOLE: the target has all of its memory (post-copy). The rest is for the explorer's checks.
    PROMISED: the source's disk has had Released. ARRIVED: the target's disk has had Running.
    KNOWN: its agent has read that, so that the operator may know of it. LOST: a container was
    started from its image although no node had lost power.
    """

    (
        CREATED,
        ASKED,
        HOLDS,
        RELEASED,
        ABORTED,
        FENCED,
        RUNS,
        OVER,
        WHOLE,
        PROMISED,
        ARRIVED,
        KNOWN,
        LOST,
    ) = (1 << n for n in range(13))


class Node(NamedTuple):
    """Records by number; memory is DOWN while the agent is."""

    disk: int
    memory: int
    copy: int
    floor: int
    rebooted: bool  # a copy was lost that nobody had given up
    fencing: int


class World(NamedTuple):
    nodes: tuple[Node, Node]
    outgoing: tuple[int, ...]
    incoming: tuple[int, ...]
    facts: tuple[int, ...]


@dataclass(frozen=True)
class Move:
    """One migration of the scenario; number is its place in World's tuples.

    follows: its memory comes after the release (post-copy).
    """

    number: int
    name: str
    source: int
    epoch: int
    follows: bool = False

    @property
    def target(self) -> int:
        return 1 - self.source


class Step(NamedTuple):
    """One thing that can happen. fair: it will, once both agents are back and connected."""

    name: tuple[str, ...]
    world: World
    fair: bool


def with_node(world: World, at: int, node: Node) -> World:
    nodes = (node, world.nodes[1]) if at == 0 else (world.nodes[0], node)
    return World(nodes, world.outgoing, world.incoming, world.facts)


def with_outgoing(world: World, move: Move, phase: int) -> World:
    changed = _changed(world.outgoing, move.number, phase)
    return World(world.nodes, changed, world.incoming, world.facts)


def with_incoming(world: World, move: Move, phase: int) -> World:
    changed = _changed(world.incoming, move.number, phase)
    return World(world.nodes, world.outgoing, changed, world.facts)


def with_fact(world: World, move: Move, what: int) -> World:
    changed = _changed(world.facts, move.number, world.facts[move.number] | what)
    return World(world.nodes, world.outgoing, world.incoming, changed)


def has(world: World, move: Move, what: int) -> bool:
    return bool(world.facts[move.number] & what)


def _changed(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
