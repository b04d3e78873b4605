"""The node's link to the other nodes, and its properties that links and routes need."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ndmsg import NTF_PROXY

from transship.common.errors import NotFound
from transship.network.addresses import Address, of_family

# the same bit means secondary for IPv4
IFA_F_TEMPORARY = 0x01


@dataclass(frozen=True)
class Underlay:
    name: str
    index: int
    mac: str
    mtu: int
    addresses: tuple[Address, ...]

    def source(self, *, like: Address) -> Address | None:
        """Return the fixed source address of the node's own clients: connections survive a move."""
        return of_family(self.addresses, like=like)


def inspect(name: str) -> Underlay:
    """Read the link and its global addresses, in the calling thread's namespace."""
    with IPRoute() as routing:
        indexes = routing.link_lookup(ifname=name)
        if not indexes:
            raise NotFound(
                f"link {name} does not exist",
                reason="LinkNotFound",
                hint="give the interface between the nodes in the agent's flag --underlay",
            )
        index = int(indexes[0])
        (link,) = routing.get_links(index)
        # temporary addresses come last: the kernel removes them, with connections that use them
        entries = sorted(routing.get_addr(index=index), key=lambda a: a["flags"] & IFA_F_TEMPORARY)
        addresses = tuple(
            ip_address(entry.get_attr("IFA_ADDRESS")) for entry in entries if entry["scope"] == 0
        )
        mac, mtu = str(link.get_attr("IFLA_ADDRESS")), int(link.get_attr("IFLA_MTU"))
    return Underlay(name, index, mac, mtu, addresses)


def answered(index: int) -> frozenset[Address]:
    """Return the addresses of others for which the node answers on that link."""
    with IPRoute() as routing:
        # pyroute2's own filter would also compare the flags of the request
        entries = routing.neigh("dump", flags=NTF_PROXY, dump_filter=lambda _: True)
        return frozenset(
            ip_address(entry.get_attr("NDA_DST")) for entry in entries if entry["ifindex"] == index
        )
