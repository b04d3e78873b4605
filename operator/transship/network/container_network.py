"""A node's containers on the network, each in one of a few states.

| state | made by | route leads | packets in | packets out | answers for the address |
|---|---|---|---|---|---|
| created | create | nowhere | wait | wait | no |
| held | hold | to the link | wait | wait | yes |
| serving | serve, release, undivert | to the link | pass | pass | yes |
| diverted | divert | to the other node | do not come | pass | no |
| shut | shut | to the other node | do not come | wait | no |
| returning | give_back | to the other node | go there | wait | no |
| gone, forwarded | forward | to the other node | | | no |

`hold`, `release`, `divert`, `untaken`, `shut` and `undivert` stand inside a handover: they only
send netlink requests (0.1 to 0.5 ms each) and may be called on an event loop. All else takes
milliseconds and threads: call it by `asyncio.to_thread`.
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
from transship.network.packet_gate import PacketGate, answer_no_more
from transship.network.sockets import Untaken

# a frame may be lost, and a bridge port may not forward yet
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
        self._turning = threading.Lock()  # a refresh must not undo a divert that passes it

    def close(self) -> None:
        for packet_gate in self._packet_gates.values():
            packet_gate.close()
        self._packet_gates.clear()
        self._serving.clear()
        self._announcer.close()
        self._routing.close()
        os.close(self._node)

    def prepare_node(self) -> None:
        """Bring the node's settings into the state that the rest relies on; any number of times."""
        name = self._underlay.name

        def settle() -> None:
            sysctls.write(sysctls.of_underlay(name))
            sysctls.write(sysctls.spread_filter())
            sysctls.write(sysctls.loosened(name))

        self._on_node(settle)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The node's own on its link to the other nodes."""
        return self._underlay.addresses

    def namespace(self, container_id: str) -> Path:
        return self._directory / container_id

    def create(self, container_id: str, addresses: Sequence[Address]) -> Path:
        """Make the container's namespace and link, shut both ways; nothing is routed to it yet.

        Without addresses it gets loopback alone. What exists already is kept as it is, with its
        doors as they are; call it after a restart too, so that the first hold or divert is quick.
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
        """Put a container on the network that is not in the hands of another node.

        For a fresh one, and for all that run when the agent starts: it disturbs no connection.
        """
        self.hold(container_id)
        self.release(container_id)

    def hold(self, container_id: str) -> None:
        """From now on packets to the address that reach this node wait in the kernel.

        The node's own clients are held at once, and it answers for the address from here on (the
        source cannot once it diverts): call it just before the source's divert. Should the source
        go on instead, it has to undivert, even if it never diverted: to announce the address again.
        """
        packet_gate = self._packet_gate_of(container_id)
        self._routing.apply(*packet_gate.lead_in(self._underlay))

    def release(self, container_id: str) -> None:
        """Let through what waits, in order and both ways, and announce the address."""
        packet_gate = self._packet_gate_of(container_id)
        packet_gate.open_outwards()
        self._routing.apply(*packet_gate.open_inwards())
        self._serving.add(container_id)
        self.announce(container_id)

    def divert(self, container_id: str, *, via: Sequence[Address]) -> None:
        """Send what comes for the address to another node; what the container says still goes out.

        One packet that another processor was just delivering may still reach a receive queue.
        """
        packet_gate = self._packet_gate_of(container_id)
        with self._turning:
            self._serving.discard(container_id)
            self._routing.apply(*packet_gate.lead_away(self._underlay, via=via))

    def untaken(self, container_id: str) -> Untaken:
        """What a dump would lose now: after divert the programs can take it up, none is added."""
        return self._packet_gate_of(container_id).queues.untaken()

    def shut(self, container_id: str) -> None:
        """Keep in what the container says, which is frozen: its kernel repeats, its end says FIN.

        Only what it said before reaches anyone: all of it is in the dump.
        """
        self._packet_gate_of(container_id).shut_outwards()

    def undivert(self, container_id: str) -> None:
        """Undo divert: what the container tried to say goes out, what comes goes in."""
        self.serve(container_id)

    def give_back(self, container_id: str, *, via: Sequence[Address]) -> None:
        """Send what waits here to the node that goes on with the container; destroy comes after.

        Only for a copy that was never released, and after the source has undone its divert.
        """
        packet_gate = self._packet_gate_of(container_id)
        self._routing.apply(
            *answer_no_more(packet_gate.addresses, on=self._underlay),
            *packet_gate.lead_away(self._underlay, via=via),
        )
        self._on_node(
            lambda: links.turn_back(packet_gate.link, namespace=self.namespace(container_id))
        )
        self._routing.apply(*packet_gate.open_inwards())

    def forward(self, container_id: str, *, via: Sequence[Address]) -> None:
        """Take a container that has left off this node, and go on forwarding what comes for it."""
        packet_gate = self._packet_gate_of(container_id)
        self._routing.apply(*packet_gate.lead_away(self._underlay, via=via))
        self._remove(container_id, packet_gate.addresses)

    def forget_forward(self, addresses: Sequence[Address]) -> None:
        index = self._underlay.index
        self._routing.apply(*(netlink.delete_route(each, index=index) for each in addresses))

    def forwards(self) -> tuple[Forward, ...]:
        """The routes that `forward` (or a divert) has left, from the kernel."""
        return self._on_node(lambda: tuple(_forwards(self._underlay.index)))

    def destroy(self, container_id: str) -> None:
        """Remove all that there is of a container, finished or not; nothing it says gets out."""
        link = self._on_node(lambda: links.find(container_id))
        addresses = link.owner.addresses if link is not None else ()
        self._remove(container_id, addresses)
        self.forget_forward(addresses)

    def list(self) -> tuple[str, ...]:
        """The ids of which this node has a namespace or a link."""
        files = (
            {each.name for each in self._directory.iterdir()} if self._directory.exists() else set()
        )
        linked = self._on_node(lambda: {each.owner.container_id for each in links.owned()})
        return tuple(sorted(files | linked))

    def refresh(self) -> tuple[str, ...]:
        """Set again what a flap of the underlay, or a change of its addresses, has taken away.

        Gives back the containers that had lost something; no other is touched.
        """
        before = self._underlay
        self._underlay = self._on_node(lambda: underlay.inspect(before.name))
        led_in = self._on_node(lambda: _led_in(self._underlay.index))
        changed = self._underlay != before
        if self._underlay.index != before.index:
            self._announcer.close()
            self._announcer = self._on_node(lambda: Announcer(before.name))
        lost = [one for one in sorted(self._serving) if changed or not self._is_led_in(one, led_in)]
        if lost:
            self.prepare_node()
        return tuple(one for one in lost if self._lead_in_again(one))

    def _is_led_in(self, container_id: str, led_in: frozenset[Address]) -> bool:
        packet_gate = self._packet_gates.get(container_id)
        return packet_gate is None or led_in.issuperset(packet_gate.addresses)

    def _lead_in_again(self, container_id: str) -> bool:
        with self._turning:
            if container_id not in self._serving:
                return False
            try:
                self.hold(container_id)
            except TransshipError as e:  # its link is gone, say: no reason to leave the others out
                logger.bind(container=container_id, error=str(e)).debug("not led in again")
                return False
            self.announce(container_id)
        return True

    def announce(self, container_id: str) -> None:
        packet_gate = self._packet_gate_of(container_id)
        self._announcer.announce(packet_gate.addresses, mac=self._underlay.mac)

    async def announce_again(self, container_id: str) -> None:
        """Repeat the announcement a few times, for as long as the container is served here."""
        for pause in ANNOUNCE_AGAIN_SECONDS:
            await asyncio.sleep(pause)
            if container_id not in self._serving:
                return
            self.announce(container_id)

    def _join(self, owner: Owner) -> None:
        if any(each.version == 6 for each in owner.addresses):
            sysctls.write(sysctls.forwarding_ipv6(self._underlay.name))
        namespace = self.namespace(owner.container_id)
        link = links.create(owner, namespace=namespace, mtu=self._underlay.mtu)
        logger.bind(container=owner.container_id, link=link.index).debug("joined to the network")

    def _remove(self, container_id: str, addresses: Sequence[Address]) -> None:
        self._routing.apply(*answer_no_more(addresses, on=self._underlay))
        self._forget(container_id)
        self._on_node(lambda: links.delete(container_id))
        namespaces.delete(self.namespace(container_id))

    def _forget(self, container_id: str) -> None:
        with self._turning:
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
        routing.link("set", index=1, state="up")  # loopback is always the first


def _led_in(underlay_index: int) -> frozenset[Address]:
    """What this node answers for, and has a route to one of its own links to."""
    with IPRoute() as routing:
        routed = {
            ip_address(each.get_attr("RTA_DST"))
            for each in routing.get_routes(proto=netlink.ROUTE_PROTOCOL)
            if each.get_attr("RTA_GATEWAY") is None
        }
    return underlay.answered(underlay_index) & routed


def _forwards(underlay_index: int) -> Iterator[Forward]:
    with IPRoute() as routing:
        for each in routing.get_routes(proto=netlink.ROUTE_PROTOCOL):
            via = each.get_attr("RTA_GATEWAY")
            if via is not None and each.get_attr("RTA_OIF") == underlay_index:
                yield Forward(ip_address(each.get_attr("RTA_DST")), ip_address(via))
