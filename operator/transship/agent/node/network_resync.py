"""Keeps containers reachable whatever befalls the node's link: routes and answers are set again.

A link that goes down and up, or loses an address, takes with it what was set for containers on it.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.common.errors import TransshipError
from transship.network import ContainerNetwork

RESYNC_SECONDS = 2.0


class NetworkResync:
    """Looks now and then; where all is as it should be that disturbs nothing."""

    def __init__(self, network: ContainerNetwork) -> None:
        self._network = network

    async def run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            failing = await self._look(failing=failing)

    async def _look(self, *, failing: bool) -> bool:
        try:
            mended = await asyncio.to_thread(self._network.refresh)
        except TransshipError as e:  # the link is away, say
            if not failing:
                logger.bind(error=str(e)).warning("the containers' network cannot be looked after")
            return True
        if mended:
            logger.bind(containers=mended).warning("routes and answers were lost: set again")
        return False
