"""Limits how many containers of this node are handed over at a time, from freeze to resume.

First come, first served. A container that waits goes on copying rounds. Only the source counts, and
a waiting container holds no resource of another node: two nodes that move to each other cannot
deadlock.
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
        """Whether its turn comes within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._turn.wait()
        except TimeoutError:
            return False
        return True

    def call(self) -> None:
        self._turn.set()

    def leave(self) -> None:
        """Let the next one in: the handover is over, or aborted. Can be repeated."""
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
