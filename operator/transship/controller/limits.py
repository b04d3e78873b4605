"""How many moves at a time: the one place that knows it on the operator's side.

A node takes part in a limited number of moves, since handovers that share its cores lengthen each
other's blackout: a dozen at once on two cores took each of them from 0.2 to 1.6 s. A move that
waits here has not begun; its container runs on. (How many of an agent's moves are between freeze
and resume at a time is the agent's own `handover_queue`.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from transship.controller.cache import ResourceCache

FEWEST_MOVES_PER_NODE = 2
MILLICORES_PER_MOVE = 1000
MOVES_WITHOUT_THROTTLE = 4
"""So many moves at a time may each be polled as often as they like."""


@dataclass(frozen=True)
class QueuedMove:
    """A move that waits for a place on its source and one on its target.

    uid: the placement's. postponed: it cannot begin for another reason at the moment, and keeps its
    position all the same.
    """

    uid: str
    source: str
    target: str
    postponed: bool = False


def startable(queue: Iterable[QueuedMove], *, free: Mapping[str, int]) -> tuple[QueuedMove, ...]:
    """All moves that can begin at the same time, in the order of the queue.

    First come, first served, as far as nodes have free places. A move that cannot begin holds up
    nobody who can. free: places by node.
    """
    left = dict(free)
    moves = []
    for move in queue:
        if not move.postponed and left[move.source] > 0 and left[move.target] > 0:
            left[move.source] -= 1
            left[move.target] -= 1
            moves.append(move)
    return tuple(moves)


def full_nodes(ahead: Iterable[QueuedMove], *, free: Mapping[str, int]) -> frozenset[str]:
    """The nodes without a free place for a move that stands behind these."""
    left = dict(free)
    for move in startable(ahead, free=free):
        left[move.source] -= 1
        left[move.target] -= 1
    return frozenset(node for node, places in left.items() if places <= 0)


class MoveLimits:
    """Counts the moves under way by the migrations that exist and those that are being created.

    Every move that can begin is woken whenever a place becomes free. It keeps its position until it
    has begun, so that no later one takes the place meanwhile.
    """

    def __init__(self, cache: ResourceCache) -> None:
        self._cache = cache
        self._reserved: dict[str, tuple[str, str]] = {}
        self._queue: dict[str, QueuedMove] = {}
        self._running: set[str] = set()

    def full_nodes(self, uid: str) -> frozenset[str]:
        """The nodes that have no place for this placement, with the moves ahead of it counted."""
        ahead = self._ahead_of(uid)
        return full_nodes(ahead, free=self._free(ahead))

    def enqueue(self, uid: str, *, source: str, target: str) -> None:
        """Wait for a place. A move that waits already keeps its position."""
        self._put(QueuedMove(uid, source, target))

    def postpone(self, uid: str) -> None:
        """The move could not begin although it was its turn: until it asks again others may."""
        if (move := self._queue.get(uid)) is not None:
            self._put(replace(move, postponed=True))

    def dequeue(self, uid: str) -> None:
        if self._queue.pop(uid, None) is not None:
            self.wake()

    def wake(self) -> None:
        """Wake all that can begin now: a place has become free, or a move has left the queue."""
        queue = tuple(self._queue.values())
        self._cache.wake(move.uid for move in startable(queue, free=self._free(queue)))

    @contextmanager
    def reserve(self, uid: str, *, source: str, target: str) -> Iterator[bool]:
        """Hold a place while the migration is being created; False when there is none left.

        The move leaves the queue. Where its migration cannot be created it is postponed.
        """
        if {source, target} & self.full_nodes(uid):
            yield False
            return
        self._reserved[uid] = (source, target)
        try:
            yield True
        except BaseException:
            self.postpone(uid)
            raise
        else:
            self._queue.pop(uid, None)
        finally:
            del self._reserved[uid]
            self.wake()

    @contextmanager
    def running(self, migration_uid: str) -> Iterator[None]:
        """Count a migration that this process drives, for `poll_factor`."""
        self._running.add(migration_uid)
        try:
            yield
        finally:
            self._running.discard(migration_uid)
            # also of a migration that is gone before it had an end
            self.wake()

    def poll_factor(self) -> float:
        """By how much the loop of each migration lengthens its pauses: many share the processor."""
        return max(1.0, len(self._running) / MOVES_WITHOUT_THROTTLE)

    def _put(self, move: QueuedMove) -> None:
        known = self._queue.get(move.uid)
        self._queue[move.uid] = move
        if known is not None and known != move:
            # the place that it could have taken may be free for another move now
            self.wake()

    def _ahead_of(self, uid: str) -> tuple[QueuedMove, ...]:
        uids = list(self._queue)
        count = uids.index(uid) if uid in self._queue else len(uids)
        return tuple(self._queue[other] for other in uids[:count])

    def _free(self, queue: tuple[QueuedMove, ...]) -> dict[str, int]:
        """Free places by node, of every node that is in the queue or takes part in a move."""
        taken = self._taken()
        nodes = {*taken, *(node for move in queue for node in (move.source, move.target))}
        return {node: self._limit(node) - taken[node] for node in nodes}

    def _taken(self) -> Counter[str]:
        under_way = self._cache.moves()
        moves = [*under_way.values()]
        moves += [move for uid, move in self._reserved.items() if uid not in under_way]
        return Counter(node for move in moves for node in move)

    def _limit(self, node: str) -> int:
        agent = self._cache.node_agent(node)
        millicores = agent.status.capacity.cpu_millicores if agent is not None else 0
        return max(FEWEST_MOVES_PER_NODE, millicores // MILLICORES_PER_MOVE)
