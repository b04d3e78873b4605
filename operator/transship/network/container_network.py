"""The containers of a node on the network. Each is in one of these states.

| state | made by | route leads | packets in | packets out | answers for the address |
|---|---|---|---|---|---|
| created | create | nowhere | wait | wait | no |
| held | hold | to the link | wait | wait | yes |
| serving | serve, release, undivert | to the link | pass | pass | yes |
| diverted | divert | to the other node | do not come | pass | no |
| shut | shut | to the other node | do not come | wait | no |
| returning | give_back | to the other node | go there | wait | no |
| gone, forwarded | forward | to the other node | | | no |

`hold`, `release`, `divert`, `unread_queues`, `shut` and `undivert` are part of a handover. They
only send netlink requests (0.1 to 0.5 ms each) and may be called on an event loop. All other
methods take milliseconds and use threads: call them by `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from loguru import logger
from pyroute2 import IPRoute

from transship.common.errors import NotFound, Refused, TransshipError
from transship.network import links, namespaces, netlink, sysctls, underlay
from transship.network.addresses import Address, Owner
from transship.network.announcements import Announcer
from transship.network.links import Link
from transship.network.netlink import Rtnl
from transship.network.packet_gate import PacketGate, stop_answering
from transship.network.sockets import UnreadQueues

# An announcement is repeated: a frame may be lost, and a bridge port may not forward yet.
ANNOUNCE_AGAIN_SECONDS = (0.05, 0.3, 1.0, 3.0)

T = TypeVar("T")


@dataclass(frozen=True)
class Forward:
    """A route that this node keeps for a container that has left."""

    address: Address
    via: Address


class ContainerNetwork:
    """The containers of the node in whose network namespace this object is made."""

    def __init__(self, underlay_link: str, *, runtime_dir: Path) -> None:
        self._directory = runtime_dir / "netns"
        self._node = namespaces.open_current()
        self._underlay = self._on_node(lambda: underlay.inspect(underlay_link))
        self._routing = Rtnl()
        self._announcer = Announcer(underlay_link)
        self._packet_gates: dict[str, PacketGate] = {}
        self._serving: set[str] = set()
        # a refresh must not undo a divert that runs at the same time
        self._route_lock = threading.Lock()

    def close(self) -> None:
        for packet_gate in self._packet_gates.values():
            packet_gate.close()
        self._packet_gates.clear()
        self._serving.clear()
        self._announcer.close()
        self._routing.close()
        os.close(self._node)

    def prepare_node(self) -> None:
        """Set the node's sysctls on which the other methods rely. May be repeated."""
        name = self._underlay.name

        def write_settings() -> None:
            sysctls.write(sysctls.of_underlay(name))
            sysctls.write(sysctls.spread_filter())
            sysctls.write(sysctls.loosened(name))

        self._on_node(write_settings)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's own addresses on its link to the other nodes."""
        return self._underlay.addresses

    def namespace(self, container_id: str) -> Path:
        return self._directory / container_id

    def create(self, container_id: str, addresses: Sequence[Address]) -> Path:
        """Create the container's namespace and link. Packets wait both ways; there is no route yet.

        Without addresses the namespace has only loopback. A namespace and link that exist are kept
        as they are, with their packet gate. Call it after a restart too, so that the first hold or
        divert is quick.
        """
        path = self.namespace(container_id)
        owner = Owner(container_id, tuple(addresses))
        namespaces.create(path, prepare=_prepare_namespace)
        if not addresses:
            return path
        existing = self._on_node(lambda: links.find(container_id))
        if existing is None:
            self._forget(container_id)
            self._on_node(lambda: self._join(owner))
        elif existing.owner != owner:
            has = ", ".join(map(str, existing.owner.addresses))
            raise Refused(f"container {container_id} has {has} here", reason="AddressDiffers")
        self._packet_gate_of(container_id)
        return path

    def serve(self, container_id: str) -> None:
        """Connect a container that no other node has.

        Call it for a new container, and at the agent's start for all that run: it disturbs no
        connection.
        """
        self.hold(container_id)
        self.release(container_id)

    def hold(self, container_id: str) -> None:
        """Hold packets to the address that reach this node in the kernel from now on.

        Packets of the node's own clients are held at once. The node answers for the address from
        now on, because the source cannot once it diverts: call it just before the source's divert.
        If the source keeps the container, it must undivert, even if it has not diverted: that
        announces the address again.
        """
        packet_gate = self._packet_gate_of(container_id)
        self._routing.apply(*packet_gate.route_to_container(self._underlay))

    def release(self, container_id: str) -> None:
        """Release the packets that wait, in order and both ways, and announce the address."""
        packet_gate = self._packet_gate_of(container_id)
        packet_gate.release_outgoing()
        self._routing.apply(*packet_gate.release_incoming())
        self._serving.add(container_id)
        self.announce(container_id)

    def divert(self, container_id: str, *, via: Sequence[Address]) -> None:
        """Route packets for the address to another node. Packets of the container still go out.

        One packet that another processor is just delivering may still reach a receive queue.
        """
        packet_gate = self._packet_gate_of(container_id)
        with self._route_lock:
            self._serving.discard(container_id)
            self._routing.apply(*packet_gate.route_to_node(self._underlay, via=via))

    def unread_queues(self, container_id: str) -> UnreadQueues:
        """Return what a dump would lose now.

        After a divert nothing is added, and the programs can read it.
        """
        return self._packet_gate_of(container_id).queues.unread_queues()

    def shut(self, container_id: str) -> None:
        """Hold packets of a frozen container: its kernel repeats data, and sends FIN at its end.

        So only packets that are older than the dump have left it, and the dump has their state.
        """
        self._packet_gate_of(container_id).hold_outgoing()

    def undivert(self, container_id: str) -> None:
        """Undo a divert: packets pass again both ways, those that waited first."""
        self.serve(container_id)

    def give_back(self, container_id: str, *, via: Sequence[Address]) -> None:
        """Send the packets that wait here to the node that keeps the container. Then destroy it.

        Only for a copy that was never released, and after the source has undone its divert.
        """
        packet_gate = self._packet_gate_of(container_id)
        self._routing.apply(
            *stop_answering(packet_gate.addresses, on=self._underlay),
            *packet_gate.route_to_node(self._underlay, via=via),
        )
        self._on_node(
            lambda: links.mirror_packets(packet_gate.link, namespace=self.namespace(container_id))
        )
        self._routing.apply(*packet_gate.release_incoming())

    def forward(self, container_id: str, *, via: Sequence[Address]) -> None:
        """Remove a container that has left this node, and keep forwarding packets to it."""
        packet_gate = self._packet_gate_of(container_id)
        self._routing.apply(*packet_gate.route_to_node(self._underlay, via=via))
        self._remove(container_id, packet_gate.addresses)

    def forget_forward(self, addresses: Sequence[Address]) -> None:
        index = self._underlay.index
        self._routing.apply(*(netlink.delete_route(each, index=index) for each in addresses))

    def forwards(self) -> tuple[Forward, ...]:
        """The routes that `forward` (or a divert) has left, from the kernel."""
        return self._on_node(lambda: tuple(_forwards(self._underlay.index)))

    def destroy(self, container_id: str) -> None:
        """Remove everything of a container, also if it is unfinished. Its packets stay inside."""
        link = self._on_node(lambda: links.find(container_id))
        addresses = link.owner.addresses if link is not None else ()
        self._remove(container_id, addresses)
        self.forget_forward(addresses)

    def list(self) -> tuple[str, ...]:
        """Return the ids of containers that have a namespace or a link on this node."""
        exists = self._directory.exists()
        namespaced = {path.name for path in self._directory.iterdir()} if exists else set()
        linked = self._on_node(lambda: {link.owner.container_id for link in links.owned()})
        return tuple(sorted(namespaced | linked))

    def refresh(self) -> tuple[str, ...]:
        """Restore routes and settings that were lost by a flap or new addresses of the underlay.

        Returns the containers that had lost something. Others are not touched.
        """
        before = self._underlay
        self._underlay = self._on_node(lambda: underlay.inspect(before.name))
        routed_here = self._on_node(lambda: _routed_here(self._underlay.index))
        changed = self._underlay != before
        if self._underlay.index != before.index:
            self._announcer.close()
            self._announcer = self._on_node(lambda: Announcer(before.name))
        lost = [
            container
            for container in sorted(self._serving)
            if changed or not self._is_routed_here(container, routed_here)
        ]
        if lost:
            self.prepare_node()
        return tuple(container for container in lost if self._route_again(container))

    def _is_routed_here(self, container_id: str, routed_here: frozenset[Address]) -> bool:
        packet_gate = self._packet_gates.get(container_id)
        return packet_gate is None or routed_here.issuperset(packet_gate.addresses)

    def _route_again(self, container_id: str) -> bool:
        with self._route_lock:
            if container_id not in self._serving:
                return False
            try:
                self.hold(container_id)
            except TransshipError as e:
                # for instance its link is gone: the other containers are served all the same
                logger.bind(container=container_id, error=str(e)).debug("route was not restored")
                return False
            self.announce(container_id)
        return True

    def announce(self, container_id: str) -> None:
        packet_gate = self._packet_gate_of(container_id)
        self._announcer.announce(packet_gate.addresses, mac=self._underlay.mac)

    async def announce_again(self, container_id: str) -> None:
        """Repeat the announcement a few times while the container is served here."""
        for pause in ANNOUNCE_AGAIN_SECONDS:
            await asyncio.sleep(pause)
            if container_id not in self._serving:
                return
            self.announce(container_id)

    def _join(self, owner: Owner) -> None:
        if owner.has_ipv6:
            sysctls.write(sysctls.forwarding_ipv6(self._underlay.name))
        namespace = self.namespace(owner.container_id)
        link = links.create(owner, namespace=namespace, mtu=self._underlay.mtu)
        logger.bind(container=owner.container_id, link=link.index).debug("connected to the network")

    def _remove(self, container_id: str, addresses: Sequence[Address]) -> None:
        self._routing.apply(*stop_answering(addresses, on=self._underlay))
        self._forget(container_id)
        self._on_node(lambda: links.delete(container_id))
        namespaces.delete(self.namespace(container_id))

    def _forget(self, container_id: str) -> None:
        with self._route_lock:
            self._serving.discard(container_id)
        packet_gate = self._packet_gates.pop(container_id, None)
        if packet_gate is not None:
            packet_gate.close()

    def _packet_gate_of(self, container_id: str) -> PacketGate:
        known = self._packet_gates.get(container_id)
        if known is not None:
            return known
        path = self.namespace(container_id)
        if not namespaces.is_namespace(path):
            raise NotFound(f"container {container_id} has no network here", reason="NoNetwork")
        link = self._on_node(lambda: links.find(container_id))
        packet_gate = PacketGate.of(link or Link(0, Owner(container_id, ())), path)
        self._packet_gates[container_id] = packet_gate
        return packet_gate

    def _on_node(self, work: Callable[[], T]) -> T:
        return namespaces.run_inside(self._node, work)


def _prepare_namespace() -> None:
    sysctls.write(sysctls.of_namespace())
    with IPRoute() as routing:
        # loopback is always the first link
        routing.link("set", index=1, state="up")


def _routed_here(underlay_index: int) -> frozenset[Address]:
    """Return the addresses for which this node answers and has a route to one of its own links."""
    with IPRoute() as routing:
        routed = {
            ip_address(route.get_attr("RTA_DST"))
            for route in routing.get_routes(proto=netlink.ROUTE_PROTOCOL)
            if route.get_attr("RTA_GATEWAY") is None
        }
    return underlay.answered(underlay_index) & routed


def _forwards(underlay_index: int) -> Iterator[Forward]:
    with IPRoute() as routing:
        for route in routing.get_routes(proto=netlink.ROUTE_PROTOCOL):
            via = route.get_attr("RTA_GATEWAY")
            if via is not None and route.get_attr("RTA_OIF") == underlay_index:
                yield Forward(ip_address(route.get_attr("RTA_DST")), ip_address(via))
