"""The queue of moves that wait for a place on their nodes: who of it can begin.

Pure. A move takes one place on its source and one on its target. First come, first served, as far
as nodes have places: one that cannot begin keeps its position and holds up nobody who can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiter:
    """aside: it cannot begin for another reason just now; it keeps its position all the same."""

    uid: str
    source: str
    target: str
    aside: bool = False


def beginners(waiting: Iterable[Waiter], *, free: Mapping[str, int]) -> tuple[Waiter, ...]:
    """All that can begin at the same time, in the order of the queue. free: places by node."""
    left = dict(free)
    found = []
    for waiter in waiting:
        if not waiter.aside and _fits(waiter, left):
            left[waiter.source] -= 1
            left[waiter.target] -= 1
            found.append(waiter)
    return tuple(found)


def full_nodes(ahead: Iterable[Waiter], *, free: Mapping[str, int]) -> frozenset[str]:
    """The nodes without a place for whoever stands behind these."""
    left = dict(free)
    for waiter in beginners(ahead, free=free):
        left[waiter.source] -= 1
        left[waiter.target] -= 1
    return frozenset(node for node, places in left.items() if places <= 0)


def _fits(waiter: Waiter, left: Mapping[str, int]) -> bool:
    return left[waiter.source] > 0 and left[waiter.target] > 0
