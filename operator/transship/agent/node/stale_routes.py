"""Ending the detours that containers leave behind when they move away.

A node goes on forwarding what still comes for an address that has left it, for those who have not
heard the announcement. Not for ever: the address may belong to another container one day. What
there is to end is read from the kernel, so a killed agent's detours are ended by the next one.
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

KEPT_SECONDS = 10.0  # announcements are repeated for 5 s
SWEEP_SECONDS = 2.0


class StaleRoutes:
    """Ends each detour some time after the journal has nothing about its address any more."""

    def __init__(self, network: ContainerNetwork, *, journal: Journal, clock: Clock) -> None:
        self._network, self._journal, self._clock = network, journal, clock
        self._since: dict[Forward, float] = {}
        self._stuck: set[Forward] = set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(await asyncio.to_thread(self._network.forwards))

    def sweep(self, found: tuple[Forward, ...]) -> None:
        """No await in here: a container may come back at any time."""
        now, owned = self._clock.monotonic(), self._addresses_in_journal()
        unowned = [forward for forward in found if forward.address not in owned]
        self._since = {forward: self._since.get(forward, now) for forward in unowned}
        self._stuck &= self._since.keys()
        for forward in [f for f, since in self._since.items() if now - since >= KEPT_SECONDS]:
            self._end(forward)

    def _end(self, forward: Forward) -> None:
        try:
            self._network.forget_forward((forward.address,))
        except (TransshipError, OSError) as e:  # the others have their turn; tried again
            if forward not in self._stuck:
                logger.bind(address=str(forward.address), error=str(e)).warning("detour not ended")
            self._stuck.add(forward)

    def _addresses_in_journal(self) -> frozenset[Address]:
        records = self._journal.all()
        return frozenset(ip_address(each) for record in records for each in record.order.addresses)
