"""Removes the forwarding routes of containers that have moved away.

A node forwards packets for an address that has left it, for hosts that have not received the
announcement. After a while the route is stale, since the address may go to another container.
Stale routes are read from the kernel, so the next agent removes those of one that was killed.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from loguru import logger

from transship.agent.journal.store import Journal
from transship.common.clock import Clock
from transship.common.errors import TransshipError
from transship.network import ContainerNetwork
from transship.network.addresses import Address
from transship.network.container_network import Forward

# announcements are repeated for 5 s
KEPT_SECONDS = 10.0
SWEEP_SECONDS = 2.0


class StaleRoutes:
    """Removes a forwarding route KEPT_SECONDS after the journal has lost its address."""

    def __init__(self, network: ContainerNetwork, *, journal: Journal, clock: Clock) -> None:
        self._network, self._journal, self._clock = network, journal, clock
        self._since: dict[Forward, float] = {}
        self._failed: set[Forward] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(await asyncio.to_thread(self._network.forwards))

    def sweep(self, forwards: tuple[Forward, ...]) -> None:
        """Remove the stale ones of these routes. Never awaits: a container may return meanwhile."""
        now, owned = self._clock.monotonic(), self._addresses_in_journal()
        unowned = [forward for forward in forwards if forward.address not in owned]
        self._since = {forward: self._since.get(forward, now) for forward in unowned}
        self._failed &= self._since.keys()
        for forward in [f for f, since in self._since.items() if now - since >= KEPT_SECONDS]:
            self._remove(forward)

    def _remove(self, forward: Forward) -> None:
        try:
            self._network.forget_forward((forward.address,))
        except (TransshipError, OSError) as e:  # the next sweep tries again
            if forward not in self._failed:
                log = logger.bind(address=str(forward.address), error=str(e))
                log.warning("removing a stale route failed")
            self._failed.add(forward)

    def _addresses_in_journal(self) -> frozenset[Address]:
        records = self._journal.all()
        return frozenset(ip_address(text) for record in records for text in record.order.addresses)
