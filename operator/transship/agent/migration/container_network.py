"""The address of a container on this node as a migration uses it (the port MigrationNetwork)."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from loguru import logger

from transship.agent.containers.instances import addresses_of
from transship.agent.journal.record import Record
from transship.agentapi.migrations import Peer
from transship.common.errors import TransshipError
from transship.common.tasks import Tasks
from transship.network import Address, ContainerNetwork

READ_PAUSE_SECONDS = 0.0005
READ_TRIES = 40
"""Longer than a program takes that is not busy; clients stall meanwhile."""


class NodeMigrationNetwork:
    """Joins records to the node's network."""

    def __init__(self, network: ContainerNetwork) -> None:
        self._network = network
        self._announcing = Tasks()

    def create(self, record: Record) -> None:
        self._network.create(record.id, addresses_of(record.order))

    def hold(self, record: Record) -> None:
        if record.order.addresses:
            self._network.hold(record.id)

    def release(self, record: Record) -> None:
        if record.order.addresses:
            self._network.release(record.id)
            self._repeat(record.id)

    def _repeat(self, container: str) -> None:
        """Announce the address again: an announcement is one frame that may get lost."""
        _ = self._announcing.begin(self._network.announce_again(container), name="announce again")

    def divert(self, record: Record, *, via: Peer) -> None:
        if record.order.addresses:
            self._network.divert(record.id, via=_hops(via))

    async def await_reads(self, record: Record) -> None:
        if not record.order.addresses:
            return
        try:
            await self._await_reads(record)
        except TransshipError as e:  # such as a kernel without the modules of sock_diag
            logger.bind(container=record.id).warning("unread socket data is unknown: {}", e)

    async def _await_reads(self, record: Record) -> None:
        unread_queues = self._network.unread_queues(record.id)
        for _ in range(READ_TRIES):
            await asyncio.sleep(READ_PAUSE_SECONDS)
            # empty twice in a row: another CPU may have been delivering a packet
            before, unread_queues = unread_queues, self._network.unread_queues(record.id)
            if not before and not unread_queues:
                return
        if unread_queues:
            log = logger.bind(container=record.id, datagram_bytes=unread_queues.datagram_bytes)
            log.bind(connections=unread_queues.connections).warning(
                "the program does not read its sockets"
            )

    def block(self, record: Record) -> None:
        if record.order.addresses:
            self._network.shut(record.id)

    def undivert(self, record: Record) -> None:
        if record.order.addresses:
            self._network.undivert(record.id)
            self._repeat(record.id)

    def return_packets(self, record: Record) -> None:
        if record.order.addresses and record.peer is not None:
            self._network.give_back(record.id, via=_hops(record.peer))

    def forward(self, record: Record, *, via: Peer) -> None:
        if record.order.addresses and record.id in self._network.list():
            self._network.forward(record.id, via=_hops(via))
        else:
            self._network.destroy(record.id)

    def remove(self, record: Record) -> None:
        self._network.destroy(record.id)


def _hops(peer: Peer) -> list[Address]:
    return [ip_address(hop) for hop in peer.hops]
