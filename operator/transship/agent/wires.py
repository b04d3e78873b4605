"""The address of a container on this node, in the words of a migration (the port Wires)."""

from __future__ import annotations

from ipaddress import ip_address

from transship.agent.instances import addresses_of
from transship.agent.records import Record
from transship.network import ContainerNetwork


class NodeWires:
    """Joins records to the node's network."""

    def __init__(self, network: ContainerNetwork) -> None:
        self._network = network

    def create_held(self, record: Record) -> None:
        self._network.create(record.id, addresses_of(record.order))

    def hold(self, record: Record) -> None:
        if record.order.addresses:
            self._network.hold(record.id)

    def release(self, record: Record) -> None:
        if record.order.addresses:
            self._network.release(record.id)

    def divert(self, record: Record, *, via: str) -> None:
        if record.order.addresses:
            self._network.divert(record.id, via=[ip_address(via)])

    def undivert(self, record: Record) -> None:
        if record.order.addresses:
            self._network.undivert(record.id)

    def leave(self, record: Record, *, via: str) -> None:
        if record.order.addresses and record.id in self._network.list():
            self._network.forward(record.id, via=[ip_address(via)])
        else:
            self._network.destroy(record.id)

    def remove(self, record: Record) -> None:
        self._network.destroy(record.id)

