"""MoveLimits: how many moves a node takes part in at a time, and who is next.

Handovers that share a node's cores lengthen each other's blackout: a dozen at once on two cores
took each of them from 0.2 to 1.6 s. What waits here has not begun; its container runs on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from transship.controller.cache import ResourceCache
from transship.controller.move_queue import Waiter, beginners, full_nodes

FEWEST_MOVES_PER_NODE = 2
MILLICORES_PER_MOVE = 1000


class MoveLimits:
    """Counts moves under way by the migrations there are, and those that are just being created.

    Everyone who can begin is woken whenever a place frees, and keeps its position until it has
    begun: nobody who comes later takes the place meanwhile.
    """

    def __init__(self, cache: ResourceCache) -> None:
        self._cache = cache
        self._being_made: dict[str, tuple[str, str]] = {}
        self._waiting: dict[str, Waiter] = {}

    def full(self, uid: str) -> frozenset[str]:
        """The nodes that have no place for this placement, those ahead of it counted."""
        ahead = self._ahead_of(uid)
        return full_nodes(ahead, free=self._free(ahead))

    def wait(self, uid: str, *, source: str, target: str) -> None:
        """Stand in line, or stay there: one that waits already keeps its position."""
        self._put(Waiter(uid, source, target))

    def step_aside(self, uid: str) -> None:
        """It could not begin although it was its turn: until it asks again others may."""
        if (waiter := self._waiting.get(uid)) is not None:
            self._put(replace(waiter, aside=True))

    def leave(self, uid: str) -> None:
        if self._waiting.pop(uid, None) is not None:
            self.wake()

    def wake(self) -> None:
        """Wake all that can begin now: a place is free, or somebody has left the queue."""
        waiting = tuple(self._waiting.values())
        ready = beginners(waiting, free=self._free(waiting))
        self._cache.wake(waiter.uid for waiter in ready)

    @contextmanager
    def taken(self, uid: str, *, source: str, target: str) -> Iterator[bool]:
        """Hold a place while the migration is being created; False when there is none left.

        With it the placement leaves the queue; where it cannot be created it steps aside.
        """
        if {source, target} & self.full(uid):
            yield False
            return
        self._being_made[uid] = (source, target)
        try:
            yield True
        except BaseException:
            self.step_aside(uid)
            raise
        else:
            self._waiting.pop(uid, None)
        finally:
            del self._being_made[uid]
            self.wake()

    def _put(self, waiter: Waiter) -> None:
        known = self._waiting.get(waiter.uid)
        self._waiting[waiter.uid] = waiter
        if known is not None and known != waiter:
            self.wake()  # what it had a claim to may be somebody else's now

    def _ahead_of(self, uid: str) -> tuple[Waiter, ...]:
        uids = list(self._waiting)
        count = uids.index(uid) if uid in self._waiting else len(uids)
        return tuple(self._waiting[each] for each in uids[:count])

    def _free(self, waiting: tuple[Waiter, ...]) -> dict[str, int]:
        """Places by node, of every node that matters to these or takes part in a move."""
        taken = self._taken()
        nodes = {*taken, *(node for w in waiting for node in (w.source, w.target))}
        return {node: self._limit(node) - taken[node] for node in nodes}

    def _taken(self) -> Counter[str]:
        under_way = self._cache.moves()
        pairs = [*under_way.values()]
        pairs += [pair for uid, pair in self._being_made.items() if uid not in under_way]
        return Counter(node for pair in pairs for node in pair)

    def _limit(self, node: str) -> int:
        agent = self._cache.node_agent(node)
        millicores = agent.status.capacity.cpu_millicores if agent is not None else 0
        return max(FEWEST_MOVES_PER_NODE, millicores // MILLICORES_PER_MOVE)
