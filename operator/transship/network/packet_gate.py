"""The ways in and out of one container, and the requests that open and shut them.

In:  the node's route to the address (to the container's link, or via another node), and the node's
     neighbour entry for it (unresolved: packets wait in the kernel; permanent: they go in).
Out: the container's neighbour entry for its gateway (unresolved: what it says waits).
Ask: whether the node answers ARP and neighbour solicitations for the address on the underlay.
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
    """A container's link, and sockets inside its namespace: for the door there, and to look."""

    link: Link
    inside: Rtnl
    queues: SocketQueues

    @classmethod
    def of(cls, link: Link, namespace: Path) -> Self:
        inside, queues = namespaces.run_inside(namespace, lambda: (Rtnl(), SocketQueues()))
        return cls(link, inside, queues)

    def close(self) -> None:
        """The sockets keep the namespace alive."""
        self.inside.close()
        self.queues.close()

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self.link.owner.addresses

    def open_outwards(self) -> None:
        hops = gateways(self.addresses)
        self.inside.apply(
            *(netlink.resolve(each, index=CONTAINER_LINK_INDEX, mac=HOST_MAC) for each in hops)
        )

    def shut_outwards(self) -> None:
        hops = gateways(self.addresses)
        self.inside.apply(*(netlink.unresolve(each, index=CONTAINER_LINK_INDEX) for each in hops))

    def open_inwards(self) -> Iterator[Request]:
        for each in self.addresses:
            mac = mac_address(self.addresses[0])
            yield netlink.resolve(each, index=self.link.index, mac=mac)

    def lead_in(self, underlay: Underlay) -> Iterator[Request]:
        """Route the addresses to the link, and answer for them."""
        for each in self.addresses:
            source = underlay.source(like=each)
            yield netlink.route_to_link(each, index=self.link.index, source=source)
            yield netlink.answer_for(each, index=underlay.index)
        yield from self._filter_sources(sysctls.RP_STRICT)

    def lead_away(self, underlay: Underlay, *, via: Sequence[Address]) -> Iterator[Request]:
        """Route the addresses to another node, which answers for them.

        The kernel stops by itself to answer ARP, by the route, but not to answer solicitations.
        What the container says is heard on although the way back is another one.
        """
        yield from self._filter_sources(sysctls.RP_OFF)
        yield from answer_no_more([a for a in self.addresses if a.version == 6], on=underlay)
        for each in self.addresses:
            hop = of_family(via, like=each)
            if hop is None:
                message = f"diverting {each}: the other node has no address of its IP version"
                raise InvalidInput(message, reason="NoNextHop")
            source = underlay.source(like=each)
            yield netlink.route_via(each, via=hop, index=underlay.index, source=source)

    def _filter_sources(self, mode: int) -> Iterator[Request]:
        if self.addresses:
            yield netlink.filter_sources(index=self.link.index, mode=mode)


def answer_no_more(addresses: Sequence[Address], *, on: Underlay) -> Iterator[Request]:
    return (netlink.answer_no_more(each, index=on.index) for each in addresses)
