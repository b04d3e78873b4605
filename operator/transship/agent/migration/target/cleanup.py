"""The target's way out: an arrival that failed, or was called off, leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loguru import logger

from transship.agent.journal import recovery
from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.states import SideState
from transship.common.tasks import Tasks, in_thread

MEND_SECONDS = 1.0
"""Between tries to remove what a failed arrival has left."""


class Cleanup:
    """Clears away one arrival after the other."""

    def __init__(self, deps: TargetDeps) -> None:
        self._deps = deps
        self._owed = Tasks()  # outlive their arrivals

    async def discard(self, incoming: IncomingMigration) -> None:
        """Leave nothing behind. The record goes last: after a crash in here it starts again."""
        if not recovery.to_discard(self._deps.journal.get(incoming.container), incoming.migration):
            return
        record = self._deps.record(incoming)
        await incoming.end_receiving()
        await self._deps.restores.destroy(record.id)
        await asyncio.to_thread(self._deps.network.remove, record)
        await self._deps.bundles.remove(record.id)
        self._deps.journal.remove(record.id)

    async def fail(self, incoming: IncomingMigration, cause: BaseException) -> None:
        """Failed is said when nothing is left, or when what is left cannot be removed now."""
        try:
            await self.discard(incoming)
        except Exception as e:
            log = logger.bind(migration=incoming.migration, error=str(e))
            log.warning("parts of a failed arrival are left: tried again")
            _ = self._owed.begin(self._discard_later(incoming), name="discard arrival")
        incoming.fail(cause)

    async def _discard_later(self, incoming: IncomingMigration) -> None:
        """The journal's folder may be read-only for a while; nobody else will ask again."""
        while True:
            await asyncio.sleep(MEND_SECONDS)
            with suppress(Exception):
                async with incoming.lock:
                    return await self.discard(incoming)

    async def throw_away(self, incoming: IncomingMigration) -> None:
        if self._deps.has_arrived(incoming):
            return
        await self.discard(incoming)
        if not incoming.state.finished:
            incoming.state = SideState.CANCELLED

    async def give_up(self, incoming: IncomingMigration) -> None:
        """The source has said Aborted, after it has undone its detour."""
        await incoming.end_preparation()
        await incoming.end_restoring()
        async with incoming.lock:
            if incoming.holding and self._deps.state(incoming) is not None:
                with suppress(Exception):  # packets that are lost are sent again
                    await in_thread(self._deps.network.give_back, self._deps.record(incoming))
            await self.throw_away(incoming)
