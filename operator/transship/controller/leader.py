"""Leadership: one operator acts at a time, the one that holds the Lease.

An operator that could not renew the lease in time ends itself before another can take over. Its
requests to agents and the API server go through `require`, so that a process that was suspended
sends nothing after it wakes up. An operator that ends for another reason releases the lease once
all work has stopped.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from loguru import logger

from transship.api.reasons import Reason
from transship.common.clock import Clock
from transship.common.errors import Conflict, Refused, TransshipError, Unreachable
from transship.kube.transport import ApiServer, Request

LEASE_NAME = "transship-operator"
LEASE_SECONDS = 15
RENEW_SECONDS = 3.0
GIVE_UP_SECONDS = 10.0  # less than the lease lasts: nobody else leads yet
ASK_SECONDS = 2.0
RELEASE_SECONDS = 3.0  # the lease runs out by itself
RELEASE_TRIES = 3  # a renewal that was cancelled may still be on its way


class Renewing(Protocol):
    """What transship.kube.leases.Leases does."""

    async def renew(self, name: str, *, holder: str, duration_seconds: int) -> object: ...

    async def release(self, name: str, *, holder: str) -> bool: ...


class Leadership:
    def __init__(self, leases: Renewing, *, clock: Clock, identity: str) -> None:
        self._leases = leases
        self._clock = clock
        self._identity = identity
        self._renewed = float("-inf")
        self._obstacle: TransshipError | None = None
        """Why the lease could not be renewed when that was last tried."""

    async def acquire(self) -> None:
        """Return when the lease is ours. Until then each cause is logged once."""
        while not await self._renew():  # noqa: ASYNC110 - nobody tells when it is free
            await asyncio.sleep(ASK_SECONDS)
        logger.bind(identity=self._identity).info("leading")

    async def keep(self) -> None:
        """Renew the lease until that fails for too long. Raises Refused then."""
        while (left := self._left_seconds()) > 0:
            try:
                async with asyncio.timeout(left):  # a request may hang for longer
                    await asyncio.sleep(RENEW_SECONDS)
                    await self._renew()
            except TimeoutError:
                break
        cause = "no answer in time" if self._obstacle is None else self._obstacle.message
        raise Refused(f"the lease could not be renewed: {cause}", reason=Reason.NOT_LEADING)

    async def release(self) -> None:
        """Release the lease. To be called only when no work runs that may change anything."""
        self._renewed = float("-inf")
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                released = await self._release()
        except (TransshipError, TimeoutError) as e:
            cause = str(e) or "no answer in time"
            logger.bind(cause=cause).warning("the lease was not released: it runs out by itself")
            return
        if released:
            logger.bind(identity=self._identity).info("lease released")

    async def _release(self) -> bool:
        for _ in range(RELEASE_TRIES - 1):
            try:
                return await self._leases.release(LEASE_NAME, holder=self._identity)
            except Conflict:
                continue
        return await self._leases.release(LEASE_NAME, holder=self._identity)

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
            self._note(e)
            return False
        self._renewed, self._obstacle = asked, None
        return True

    def _note(self, obstacle: TransshipError) -> None:
        """Log each cause once: the lease is requested again every few seconds."""
        known, self._obstacle = self._obstacle, obstacle
        if known is None or (known.reason, known.message) != (obstacle.reason, obstacle.message):
            level, message = _level_and_message(obstacle)
            log = logger.bind(reason=str(obstacle.reason), cause=str(obstacle))
            log.log(level, f"the lease is not ours: {message}")


def _level_and_message(obstacle: TransshipError) -> tuple[str, str]:
    """For the log."""
    match obstacle:
        case Conflict():
            return "INFO", "another operator was faster"
        case Unreachable():
            return "WARNING", "the API server cannot be reached"
        case Refused(reason=Reason.LEASE_HELD):
            return "INFO", "another operator leads"
        case Refused():
            return "ERROR", "the API server refuses it"
        case _:
            return "ERROR", "it can be neither read nor written"


class LeadersTransport:
    """The API server; writes are allowed only while this operator leads."""

    def __init__(self, transport: ApiServer, leadership: Leadership) -> None:
        self._transport = transport
        self._leadership = leadership

    async def send(self, request: Request) -> dict[str, Any]:
        if request.method != "GET":
            self._leadership.require()
        return await self._transport.send(request)

    async def close(self) -> None:
        await self._transport.close()
