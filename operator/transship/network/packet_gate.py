"""The packet gate of one container: what lets its packets pass or wait, and where they are routed.

Incoming: the node's route to the address (to the container's link, or via another node), and the
node's neighbour entry for it (unresolved: packets wait in the kernel; permanent: they pass).
Outgoing: the container's neighbour entry for its gateway (unresolved: its packets wait).
Answers: whether the node answers ARP and neighbour solicitations for the address on the underlay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transship.common.errors import InvalidInput
from transship.network import namespaces, netlink, sysctls
from transship.network.addresses import HOST_MAC, Address, gateways, mac_address, of_family
from transship.network.links import CONTAINER_LINK_INDEX, Link
from transship.network.netlink import Request, Rtnl
from transship.network.sockets import SocketQueues
from transship.network.underlay import Underlay


@dataclass(frozen=True)
class PacketGate:
    """A container's link, and netlink sockets inside its namespace.

    inside: sets the neighbour entries in the namespace.
    queues: reads the receive queues of its sockets.
    """

    link: Link
    inside: Rtnl
    queues: SocketQueues

    @classmethod
    def of(cls, link: Link, namespace: Path) -> Self:
        inside, queues = namespaces.run_inside(namespace, lambda: (Rtnl(), SocketQueues()))
        return cls(link, inside, queues)

    def close(self) -> None:
        """Close the sockets, which keep the namespace alive."""
        self.inside.close()
        self.queues.close()

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self.link.owner.addresses

    def release_outgoing(self) -> None:
        hops = gateways(self.addresses)
        self.inside.apply(
            *(netlink.resolve(hop, index=CONTAINER_LINK_INDEX, mac=HOST_MAC) for hop in hops)
        )

    def hold_outgoing(self) -> None:
        hops = gateways(self.addresses)
        self.inside.apply(*(netlink.unresolve(hop, index=CONTAINER_LINK_INDEX) for hop in hops))

    def release_incoming(self) -> Iterator[Request]:
        for address in self.addresses:
            mac = mac_address(self.addresses[0])
            yield netlink.resolve(address, index=self.link.index, mac=mac)

    def route_to_container(self, underlay: Underlay) -> Iterator[Request]:
        """Route the addresses to the link, and answer for them."""
        for address in self.addresses:
            source = underlay.source(like=address)
            yield netlink.route_to_link(address, index=self.link.index, source=source)
            yield netlink.answer_for(address, index=underlay.index)
        yield from self._filter_sources(sysctls.RP_STRICT)

    def route_to_node(self, underlay: Underlay, *, via: Sequence[Address]) -> Iterator[Request]:
        """Route the addresses to another node, which answers for them.

        Because of the route the kernel no longer answers ARP, but it would still answer neighbour
        solicitations. The source filter is lifted, because the container's packets still come from
        its link while the route to it is another one.
        """
        yield from self._filter_sources(sysctls.RP_OFF)
        yield from stop_answering([a for a in self.addresses if a.version == 6], on=underlay)
        for address in self.addresses:
            hop = of_family(via, like=address)
            if hop is None:
                message = f"diverting {address}: the other node has no address of its IP family"
                raise InvalidInput(message, reason="NoNextHop")
            source = underlay.source(like=address)
            yield netlink.route_via(address, via=hop, index=underlay.index, source=source)

    def _filter_sources(self, mode: int) -> Iterator[Request]:
        if self.addresses:
            yield netlink.filter_sources(index=self.link.index, mode=mode)


def stop_answering(addresses: Sequence[Address], *, on: Underlay) -> Iterator[Request]:
    return (netlink.stop_answering(address, index=on.index) for address in addresses)
