"""The veth pair that connects a container to its node: created, found, deleted.

The alias of the node's end names its owner. It is written last: a link without an alias was left
by a crash. All functions work in the calling thread's namespace unless they say otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from transship.network import namespaces, netlink, sysctls
from transship.network.addresses import (
    HOST_MAC,
    Owner,
    gateways,
    link_name,
    mac_address,
    mirror_gateway,
    parse_alias,
)

CONTAINER_LINK = "eth0"
# The same on every node, whatever tunnels a kernel puts into each namespace: programs may store it.
CONTAINER_LINK_INDEX = 100
IFA_F_NODAD = 0x02


@dataclass(frozen=True)
class Link:
    """The node's end of a container's veth pair."""

    index: int
    owner: Owner


def owned() -> Iterator[Link]:
    """Yield every finished link of Transship."""
    with IPRoute() as routing:
        for link in routing.get_links():
            owner = parse_alias(link.get_attr("IFLA_IFALIAS"))
            if owner is not None and link.get_attr("IFLA_IFNAME") == link_name(owner.container_id):
                yield Link(int(link["index"]), owner)


def find(container_id: str) -> Link | None:
    with IPRoute() as routing:
        indexes = routing.link_lookup(ifname=link_name(container_id))
        if not indexes:
            return None
        (link,) = routing.get_links(indexes[0])
        owner = parse_alias(link.get_attr("IFLA_IFALIAS"))
    return None if owner is None else Link(int(indexes[0]), owner)


def delete(container_id: str) -> None:
    """Remove both ends at once, also of an unfinished pair."""
    with IPRoute() as routing:
        for index in routing.link_lookup(ifname=link_name(container_id)):
            routing.link("del", index=index)


def create(owner: Owner, *, namespace: Path, mtu: int) -> Link:
    """Connect the namespace to the node by a veth pair that holds packets in both directions."""
    delete(owner.container_id)
    node = namespaces.open_current()
    try:
        namespaces.run_inside(namespace, lambda: _make_container_end(owner, node=node, mtu=mtu))
    finally:
        os.close(node)
    link = _raise_node_end(owner)
    # Only now: a link without a carrier may lose its neighbours a moment later. Then the container
    # would send ARP requests for its gateway, which tell the node its hardware address, and held
    # packets would go in before there are sockets for them.
    namespaces.run_inside(namespace, lambda: _hold_outgoing(owner))
    return _finish_node_end(link)


def _make_container_end(owner: Owner, *, node: int, mtu: int) -> None:
    peer = {
        "ifname": link_name(owner.container_id),
        "address": HOST_MAC,
        "net_ns_fd": node,
        "mtu": mtu,
    }
    with IPRoute() as routing:
        # created inside the namespace, because only the index of the first end can be chosen
        routing.link(
            "add",
            kind="veth",
            ifname=CONTAINER_LINK,
            index=CONTAINER_LINK_INDEX,
            address=mac_address(owner.addresses[0]),
            mtu=mtu,
            peer=peer,
        )
        sysctls.write(sysctls.of_link(CONTAINER_LINK, ipv6=owner.has_ipv6))
        for address in owner.addresses:
            routing.addr(
                "add",
                index=CONTAINER_LINK_INDEX,
                address=str(address),
                prefixlen=address.max_prefixlen,
                # without NODAD the address is tentative until a kernel thread has run, and a
                # restore cannot bind to it
                flags=IFA_F_NODAD if address.version == 6 else 0,
            )
        routing.link("set", index=CONTAINER_LINK_INDEX, state="up")
        for hop in gateways(owner.addresses):
            routing.route(
                "add",
                dst="default",
                family=netlink.family(hop),
                gateway=str(hop),
                oif=CONTAINER_LINK_INDEX,
                flags=netlink.RTNH_F_ONLINK,
            )


def _raise_node_end(owner: Owner) -> Link:
    name = link_name(owner.container_id)
    with IPRoute() as routing:
        (index,) = routing.link_lookup(ifname=name)
        sysctls.write(sysctls.of_link(name, ipv6=owner.has_ipv6))
        sysctls.write(sysctls.of_node_end(name))
        routing.link("set", index=index, state="up")
    return Link(int(index), owner)


def _hold_outgoing(owner: Owner) -> None:
    hops = gateways(owner.addresses)
    _apply_once(netlink.unresolve(hop, index=CONTAINER_LINK_INDEX) for hop in hops)


def _finish_node_end(link: Link) -> Link:
    _apply_once(netlink.unresolve(address, index=link.index) for address in link.owner.addresses)
    with IPRoute() as routing:
        routing.link("set", index=link.index, ifalias=link.owner.alias())
    return link


def mirror_packets(link: Link, *, namespace: Path) -> None:
    """Make the namespace send packets for the container's addresses back to the node.

    The container's sockets get none of them. Their own packets still wait: the route back has
    another next hop.
    """
    sysctls.write(sysctls.of_mirrored_node_end(link_name(link.owner.container_id)))
    namespaces.run_inside(namespace, lambda: _become_mirror(link.owner))


def _become_mirror(owner: Owner) -> None:
    sysctls.write(sysctls.of_mirror(CONTAINER_LINK))
    with IPRoute() as routing:
        # a link loses its routes and neighbours with its last address, so these are set afterwards
        routing.flush_addr(index=CONTAINER_LINK_INDEX)
        for address in owner.addresses:
            hop = mirror_gateway(address)
            _apply_once([netlink.resolve(hop, index=CONTAINER_LINK_INDEX, mac=HOST_MAC)])
            routing.route(
                "add",
                dst=f"{address}/{address.max_prefixlen}",
                gateway=str(hop),
                oif=CONTAINER_LINK_INDEX,
                flags=netlink.RTNH_F_ONLINK,
            )


def _apply_once(requests: Iterable[netlink.Request]) -> None:
    routing = netlink.Rtnl()
    try:
        routing.apply(*requests)
    finally:
        routing.close()
