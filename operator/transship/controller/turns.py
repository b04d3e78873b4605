"""Turns: how many moves a node takes part in at a time, and who is next.

Handovers that share a node's cores lengthen each other's blackout: a dozen at once on two cores
took each of them from 0.2 to 1.6 s. What waits here has not begun; its container runs on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from transship.controller.directory import Directory

FEWEST_MOVES_PER_NODE = 2
MILLICORES_PER_MOVE = 1000


class Turns:
    """Counts moves under way by the migrations there are, and those that are just being created."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._being_made: dict[str, tuple[str, str]] = {}
        self._waiting: dict[str, None] = {}

    def full(self) -> frozenset[str]:
        """The nodes that take part in as many moves as they may."""
        counts = self._counts()
        return frozenset(node for node, count in counts.items() if count >= self._limit(node))

    def wait(self, uid: str) -> None:
        """Be woken when a move ends; first come, first served."""
        self._waiting.setdefault(uid)

    def leave(self, uid: str) -> None:
        self._waiting.pop(uid, None)

    def over(self, nodes: Iterable[str]) -> None:
        """A move of these nodes has ended: wake as many as could begin now."""
        places = sum(self._limit(node) for node in nodes)
        for uid in list(self._waiting)[:places]:
            self._waiting.pop(uid)
            self._directory.wake([uid])

    @contextmanager
    def taken(self, uid: str, *, source: str, target: str) -> Iterator[bool]:
        """Hold a place while the migration is being created; False when there is none left."""
        if {source, target} & self.full():
            yield False
            return
        self._being_made[uid] = (source, target)
        try:
            yield True
        finally:
            self._being_made.pop(uid, None)

    def _counts(self) -> dict[str, int]:
        pairs = [*self._directory.moves(), *self._being_made.values()]
        counts: dict[str, int] = {}
        for pair in pairs:
            for node in pair:
                counts[node] = counts.get(node, 0) + 1
        return counts

    def _limit(self, node: str) -> int:
        agent = self._directory.node_agent(node)
        millicores = agent.status.capacity.cpu_millicores if agent is not None else 0
        return max(FEWEST_MOVES_PER_NODE, millicores // MILLICORES_PER_MOVE)
