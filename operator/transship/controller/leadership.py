"""Leadership: one operator acts at a time, the one that holds the Lease.

An operator that could not renew in time ends itself before another can take over: it cannot know
what its successor does. What it has begun and not sent yet is not sent any more: its requests to
agents and API server go through `require` (a process that was stopped wakes up anywhere).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from loguru import logger

from transship.api.reasons import Reason
from transship.common.clock import Clock
from transship.common.errors import Refused, TransshipError
from transship.kube.transport import ApiServer, Request

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
        self._renewed = float("-inf")

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
        while (left := self._left_seconds()) > 0:
            try:
                async with asyncio.timeout(left):  # a request may hang for longer
                    await asyncio.sleep(RENEW_SECONDS)
                    await self._renew()
            except TimeoutError:
                break
        logger.error("the lease could not be renewed, ending")

    def require(self) -> None:
        """Raise Refused unless it is certain that nobody else leads."""
        if self._left_seconds() <= 0:
            raise Refused("this operator leads no more", reason=Reason.NOT_LEADING)

    def _left_seconds(self) -> float:
        return self._renewed + GIVE_UP_SECONDS - self._clock.monotonic()

    async def _renew(self) -> bool:
        asked = self._clock.monotonic()  # from here on others count, too
        try:
            await self._leases.renew(
                LEASE_NAME, holder=self._identity, duration_seconds=LEASE_SECONDS
            )
        except TransshipError as e:
            logger.bind(error=str(e)).debug("lease not renewed")
            return False
        self._renewed = asked
        return True


class LeadersTransport:
    """The API server, for as long as this operator leads; reading is always allowed."""

    def __init__(self, transport: ApiServer, leadership: Leadership) -> None:
        self._transport = transport
        self._leadership = leadership

    async def send(self, request: Request) -> dict[str, Any]:
        if request.method != "GET":
            self._leadership.require()
        return await self._transport.send(request)

    async def close(self) -> None:
        await self._transport.close()
