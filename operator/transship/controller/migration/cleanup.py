"""MigrationCleanup: what is left to do once a migration is over.

Nothing here changes how the migration ended. What an agent misses now, the placement's own loop
cleans up later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loguru import logger

from transship.api.migration import ContainerMigration
from transship.common.errors import TransshipError, Unreachable
from transship.controller.deps import Deps
from transship.controller.migration.cancellation import cancellation_is_unrecorded
from transship.controller.migration.history import was_cancelled
from transship.controller.reconcile.finalizers import remove_finalizer

FORGET_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
CANCELLATION_RECORD_TIMEOUT_SECONDS = 5.0
CANCELLATION_POLL_SECONDS = 0.5


class MigrationCleanup:
    """Has both agents forget a finished migration, and removes its finalizer."""

    def __init__(
        self,
        migration: ContainerMigration,
        *,
        deps: Deps,
        wait: Callable[[float], Awaitable[bool]],
    ) -> None:
        """wait: waits so many seconds or until the object changes; False: the process ends."""
        self._migration = migration
        self._uid = migration.metadata.uid
        self._deps = deps
        self._wait = wait

    async def is_done(self) -> bool:
        """Clean up; False: the API server did not accept it, and it has to be tried again."""
        spec = self._migration.spec
        try:
            await asyncio.gather(
                self._forget(spec.source_node, outgoing=True),
                self._forget(spec.target_node, outgoing=False),
                self._await_cancellation_record(),
            )
            await remove_finalizer(self._migration, cluster=self._deps.cluster)
        except TransshipError as e:
            logger.bind(migration=self._uid, error=str(e)).debug("not cleaned up yet")
            return False
        return True

    async def _forget(self, node: str, *, outgoing: bool) -> None:
        for pause in FORGET_RETRY_SECONDS:
            try:
                agent = self._deps.agent_poller.agent(node)
                if outgoing:
                    return await agent.forget_outgoing(self._uid)
                return await agent.forget_incoming(self._uid)
            except Unreachable:
                return None
            except TransshipError as e:
                # the agent cannot at the moment: its disk has no room for the journal, say
                logger.bind(migration=self._uid, node=node).debug("not forgotten yet: {}", e)
            if not await self._wait(pause):
                return None
        return None

    async def _await_cancellation_record(self) -> None:
        """A deleted object is the only sign of a user's cancellation: its placement records it."""
        migration, clock = self._migration, self._deps.clock
        if migration.metadata.deletion_timestamp is None or not was_cancelled(migration):
            return
        deadline = clock.monotonic() + CANCELLATION_RECORD_TIMEOUT_SECONDS
        while clock.monotonic() < deadline:
            placement = self._deps.cache.placement(migration.spec.placement_uid)
            nodes = self._deps.agent_poller.nodes()
            if placement is None:
                return
            if not cancellation_is_unrecorded(placement, migration, nodes=nodes):
                return
            if not await self._wait(CANCELLATION_POLL_SECONDS):
                return
