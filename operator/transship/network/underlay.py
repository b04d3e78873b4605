"""The node's link to the other nodes: what containers' links and routes need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NTF_PROXY

from transship.common.errors import NotFound
from transship.network.addresses import Address, of_family

IFA_F_TEMPORARY = 0x01  # of IPv4: secondary


@dataclass(frozen=True)
class Underlay:
    name: str
    index: int
    mac: str
    mtu: int
    addresses: tuple[Address, ...]

    def source(self, *, like: Address) -> Address | None:
        """What the node's own clients speak from: fixed, so that they outlive a move."""
        return of_family(self.addresses, like=like)


def inspect(name: str) -> Underlay:
    """Read the link and its global addresses, in the calling thread's namespace."""
    with IPRoute() as routing:
        indexes = routing.link_lookup(ifname=name)
        if not indexes:
            raise NotFound(
                f"link {name} does not exist",
                reason="LinkNotFound",
                hint="choose the underlay link",
            )
        index = int(indexes[0])
        (link,) = routing.get_links(index)
        # temporary ones come last: they go, and a connection that speaks from one must not
        found = sorted(routing.get_addr(index=index), key=lambda a: a["flags"] & IFA_F_TEMPORARY)
        addresses = tuple(
            ip_address(each.get_attr("IFA_ADDRESS")) for each in found if each["scope"] == 0
        )
        mac, mtu = str(link.get_attr("IFLA_ADDRESS")), int(link.get_attr("IFLA_MTU"))
    return Underlay(name, index, mac, mtu, addresses)


def answered(index: int) -> frozenset[Address]:
    """The addresses of others for which the node answers on that link."""
    with IPRoute() as routing:
        # by a filter of its own: pyroute2's takes the flags of a request for what to look for
        found = routing.neigh("dump", flags=NTF_PROXY, dump_filter=lambda _: True)
        return frozenset(
            ip_address(each.get_attr("NDA_DST")) for each in found if each["ifindex"] == index
        )
