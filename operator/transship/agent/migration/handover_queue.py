"""Turns at the handover: so many containers of this node at a time are between freeze and go.

First come, first served. Whoever waits goes on copying rounds. Only the source's node counts, and
nobody who waits holds anything of another node's: two nodes that move to each other cannot block
one another.
"""

from __future__ import annotations

import asyncio
from collections import deque

HANDOVERS_AT_ONCE = 1


class Place:
    """One container's place in the queue, from the moment it could be handed over."""

    def __init__(self, handover_queue: HandoverQueue) -> None:
        self._queue = handover_queue
        self._turn = asyncio.Event()

    @property
    def has_turn(self) -> bool:
        return self._turn.is_set()

    async def wait(self, *, seconds: float) -> bool:
        """Whether it is this one's turn, now or within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._turn.wait()
        except TimeoutError:
            return False
        return True

    def call(self) -> None:
        self._turn.set()

    def leave(self) -> None:
        """The handover is over, or given up; can be repeated."""
        self._queue.leave(self)


class HandoverQueue:
    """The queue of one agent."""

    def __init__(self, number: int = HANDOVERS_AT_ONCE) -> None:
        self._number = number
        self._waiting: deque[Place] = deque()
        self._inside: set[Place] = set()

    def enter(self) -> Place:
        place = Place(self)
        self._waiting.append(place)
        self._call_next()
        return place

    def leave(self, place: Place) -> None:
        self._inside.discard(place)
        if place in self._waiting:
            self._waiting.remove(place)
        self._call_next()

    def _call_next(self) -> None:
        while self._waiting and len(self._inside) < self._number:
            place = self._waiting.popleft()
            self._inside.add(place)
            place.call()
