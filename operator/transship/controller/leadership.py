"""Leadership: one operator acts at a time, the one that holds the Lease.

An operator that could not renew in time ends itself before another can take over: it cannot know
what its successor does.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from loguru import logger

from transship.common.clock import Clock
from transship.common.errors import TransshipError

LEASE_NAME = "transship-operator"
LEASE_SECONDS = 15
RENEW_SECONDS = 3.0
GIVE_UP_SECONDS = 10.0  # less than the lease lasts: nobody else leads yet
ASK_SECONDS = 2.0


class Renewing(Protocol):
    """What transship.kube.leases.Leases does."""

    async def renew(self, name: str, *, holder: str, duration_seconds: int) -> object: ...


class Leadership:
    def __init__(self, leases: Renewing, *, clock: Clock, identity: str) -> None:
        self._leases = leases
        self._clock = clock
        self._identity = identity

    async def acquire(self) -> None:
        """Return when the lease is ours."""
        waiting = False
        while not await self._renew():
            if not waiting:
                logger.info("another operator leads, waiting for its lease")
                waiting = True
            await asyncio.sleep(ASK_SECONDS)
        logger.bind(identity=self._identity).info("leading")

    async def keep(self) -> None:
        """Renew until it cannot be done any more; then return."""
        renewed = self._clock.monotonic()
        while self._clock.monotonic() - renewed < GIVE_UP_SECONDS:
            await asyncio.sleep(RENEW_SECONDS)
            if await self._renew():
                renewed = self._clock.monotonic()
        logger.error("the lease could not be renewed, ending")

    async def _renew(self) -> bool:
        try:
            await self._leases.renew(
                LEASE_NAME, holder=self._identity, duration_seconds=LEASE_SECONDS
            )
        except TransshipError as e:
            logger.bind(error=str(e)).debug("lease not renewed")
            return False
        return True
