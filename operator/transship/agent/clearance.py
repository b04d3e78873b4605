"""The target's way out: an arrival that failed, or was called off, leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loguru import logger

from transship.agent import duties
from transship.agent.arrival import Arrival
from transship.agent.target_parts import TargetParts, in_thread
from transship.common.tasks import Tasks
from transship.protocol.states import SideState

MEND_SECONDS = 1.0
"""Between tries to remove what a failed arrival has left."""


class Clearance:
    """Clears away one arrival after the other."""

    def __init__(self, parts: TargetParts) -> None:
        self._with = parts
        self._owed = Tasks()  # outlive their arrivals

    async def discard(self, arrival: Arrival) -> None:
        """Leave nothing behind. The record goes last: after a crash in here it starts again."""
        if not duties.to_discard(self._with.journal.get(arrival.container), arrival.migration):
            return
        record = self._with.record(arrival)
        await arrival.end_receiving()
        await self._with.copies.destroy(record.id)
        await asyncio.to_thread(self._with.wires.remove, record)
        await self._with.bundles.remove(record.id)
        self._with.journal.remove(record.id)

    async def fail(self, arrival: Arrival, cause: BaseException) -> None:
        """Failed is said when nothing is left, or when what is left cannot be removed now."""
        try:
            await self.discard(arrival)
        except Exception as e:
            log = logger.bind(migration=arrival.migration, error=str(e))
            log.warning("parts of a failed arrival are left: tried again")
            _ = self._owed.begin(self._discard_later(arrival), name="discard arrival")
        arrival.fail(cause)

    async def _discard_later(self, arrival: Arrival) -> None:
        """The journal's folder may be read-only for a while; nobody else will ask again."""
        while True:
            await asyncio.sleep(MEND_SECONDS)
            with suppress(Exception):
                async with arrival.lock:
                    return await self.discard(arrival)

    async def throw_away(self, arrival: Arrival) -> None:
        if self._with.has_arrived(arrival):
            return
        await self.discard(arrival)
        if not arrival.state.finished:
            arrival.state = SideState.CANCELLED

    async def give_up(self, arrival: Arrival) -> None:
        """The source has said Aborted, after it has undone its detour."""
        await arrival.end_preparation()
        await arrival.end_restoring()
        async with arrival.lock:
            if arrival.holding and self._with.state(arrival) is not None:
                with suppress(Exception):  # packets that are lost are sent again
                    await in_thread(self._with.wires.give_back, self._with.record(arrival))
            await self.throw_away(arrival)
