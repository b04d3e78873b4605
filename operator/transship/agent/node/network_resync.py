"""Sets the containers' routes and proxy neighbours again after the node's link has lost them.

A link that goes down and up, or loses an address, loses the routes and proxy neighbours on it.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.common.errors import TransshipError
from transship.network import ContainerNetwork

RESYNC_SECONDS = 2.0


class NetworkResync:
    """Refreshes the network periodically; a refresh without a change disturbs nothing."""

    def __init__(self, network: ContainerNetwork) -> None:
        self._network = network

    async def run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            failing = await self._refresh(failing=failing)

    async def _refresh(self, *, failing: bool) -> bool:
        try:
            restored = await asyncio.to_thread(self._network.refresh)
        except TransshipError as e:  # the link does not exist, for example
            if not failing:
                logger.bind(error=str(e)).warning("refreshing the containers' network failed")
            return True
        if restored:
            logger.bind(containers=restored).warning(
                "lost routes and proxy neighbours were set again"
            )
        return False
