"""The cleanup: an incoming migration that failed or was aborted leaves nothing behind."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loguru import logger

from transship.agent.journal import recovery
from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.states import SideState
from transship.common.tasks import Tasks, in_thread

RETRY_SECONDS = 1.0
"""Between tries to remove what a failed migration has left."""


class Cleanup:
    """Removes what incoming migrations have left on this node."""

    def __init__(self, deps: TargetDeps) -> None:
        self._deps = deps
        self._retries = Tasks()
        """They outlive their migrations."""

    async def discard(self, incoming: IncomingMigration) -> None:
        """Remove everything, the record last: after a crash in here the next start goes on."""
        if not recovery.to_discard(self._deps.journal.get(incoming.container), incoming.migration):
            return
        record = self._deps.record(incoming)
        await incoming.end_receiving()
        await self._deps.restores.destroy(record.id)
        await asyncio.to_thread(self._deps.network.remove, record)
        await self._deps.bundles.remove(record.id)
        self._deps.journal.remove(record.id)

    async def fail(self, incoming: IncomingMigration, cause: BaseException) -> None:
        """Report the failure once nothing is left, or what is left cannot be removed now."""
        try:
            await self.discard(incoming)
        except Exception as e:
            log = logger.bind(migration=incoming.migration, error=str(e))
            log.warning("parts of a failed migration are left, their removal is tried again")
            _ = self._retries.begin(
                self._discard_later(incoming), name="discard incoming migration"
            )
        incoming.fail(cause)

    async def _discard_later(self, incoming: IncomingMigration) -> None:
        """Retry until it works: the journal's folder may be read-only for a while."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(Exception):
                async with incoming.lock:
                    return await self.discard(incoming)

    async def cancel(self, incoming: IncomingMigration) -> None:
        """Discard an incoming migration unless it has brought the container here already."""
        if self._deps.has_arrived(incoming):
            return
        await self.discard(incoming)
        if not incoming.state.finished:
            incoming.state = SideState.CANCELLED

    async def abort(self, incoming: IncomingMigration) -> None:
        """Obey the verdict Aborted; the source has ended its diversion of packets before."""
        await incoming.end_preparation()
        await incoming.end_restoring()
        async with incoming.lock:
            if incoming.holding and self._deps.state(incoming) is not None:
                # lost packets are retransmitted
                with suppress(Exception):
                    await in_thread(self._deps.network.return_packets, self._deps.record(incoming))
            await self.cancel(incoming)
