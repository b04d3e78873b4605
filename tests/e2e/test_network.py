"""Two nodes and a machine on one link, each in a network namespace of the test's own.

What the hosts of the link see of a container's address while it is created, held, diverted,
released, given back.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TypeVar

import pytest
from pyroute2 import IPRoute

from transship.common.errors import InvalidInput, NotFound, Refused
from transship.network import Address, ContainerNetwork, Forward, namespaces
from transship.network.addresses import gateways, link_name

pytestmark = pytest.mark.lab

T = TypeVar("T")
MACHINE, NODE_A, NODE_B = "machine", "node-a", "node-b"
HOSTS = {MACHINE: 1, NODE_A: 11, NODE_B: 12}
V4 = IPv4Address("10.222.128.5")
V6 = ip_address("fd00:222::8005")
OTHER_V4 = ip_address("10.222.0.99")
NEIGHBOUR_V4 = ip_address("10.222.128.6")
ID = "0b7c7f0e-6d0a-4d3f-9a51-1f6b0f0f9c11"
OTHER_ID = "5d0d4f2c-1c8e-4a86-8d22-7ad0a2a4f4d2"
PORT = 7000
SO_RCVBUFFORCE = 33  # not in the socket module
NUD_FAILED = 0x20
NTF_PROXY = 0x08
RT_SCOPE_LINK = 253
IDLE_TIMEOUT_SECONDS = 10.0
SHORT_SECONDS = 0.3  # long enough for an answer that must not come


def node_addresses(name: str) -> list[Address]:
    number = HOSTS[name]
    return [ip_address(f"10.222.0.{number}"), ip_address(f"fd00:222::{number:x}")]


class Lan:
    """The hosts' namespaces and the switch that joins them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.networks: dict[str, ContainerNetwork] = {}
        namespaces.create(directory / "switch", prepare=make_switch)
        for name in HOSTS:
            namespaces.create(directory / name, prepare=lambda: None)
            descriptor = os.open(directory / name, os.O_RDONLY)
            self.inside("switch", partial(plug_in, name, namespace=descriptor))
            os.close(descriptor)
            self.inside(name, partial(configure, name))
        for name in (NODE_A, NODE_B):
            self.start(name)

    def inside(self, name: str, work: Callable[[], T]) -> T:
        return namespaces.run_inside(self.directory / name, work)

    def start(self, name: str) -> ContainerNetwork:
        runtime = self.directory / f"run-{name}"
        network = self.inside(name, lambda: ContainerNetwork("eth0", runtime_dir=runtime))
        network.prepare_node()
        self.networks[name] = network
        return network

    def remove(self) -> None:
        for network in self.networks.values():
            for container_id in network.list():
                network.destroy(container_id)
            network.close()
        for name in ("switch", *HOSTS):
            namespaces.delete(self.directory / name)

    def socket(self, name: str, kind: socket.SocketKind, *, ipv6: bool = False) -> socket.socket:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        return self.inside(name, lambda: socket.socket(family, kind))

    def neighbour(self, name: str, address: Address = V4) -> str | None:
        """The hardware address that a host has for the address."""

        def look() -> str | None:
            with IPRoute() as routing:
                family = socket.AF_INET if address.version == 4 else socket.AF_INET6
                for each in routing.get_neighbours(family=family):
                    if each.get_attr("NDA_DST") == str(address):
                        return str(each.get_attr("NDA_LLADDR"))
            return None

        return self.inside(name, look)

    def mac(self, name: str) -> str:
        def look() -> str:
            with IPRoute() as routing:
                (link,) = routing.get_links(ifname="eth0")
                return str(link.get_attr("IFLA_ADDRESS"))

        return self.inside(name, look)


def make_switch() -> None:
    with IPRoute() as routing:
        routing.link("add", kind="bridge", ifname="br0", br_stp_state=0, br_mcast_snooping=0)
        routing.link("set", ifname="br0", state="up")


def plug_in(name: str, *, namespace: int) -> None:
    with IPRoute() as routing:
        (bridge,) = routing.link_lookup(ifname="br0")
        peer = {"ifname": "eth0", "net_ns_fd": namespace}
        routing.link("add", kind="veth", ifname=name, peer=peer)
        (index,) = routing.link_lookup(ifname=name)
        routing.link("set", index=index, master=bridge, state="up")


def configure(name: str) -> None:
    Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("0")
    with IPRoute() as routing:
        routing.link("set", index=1, state="up")
        (index,) = routing.link_lookup(ifname="eth0")
        v4, v6 = node_addresses(name)
        routing.addr("add", index=index, address=str(v4), prefixlen=16)
        routing.addr("add", index=index, address=str(v6), prefixlen=64)
        routing.link("set", index=index, state="up")


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    made = Lan(tmp_path)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def a(lan: Lan) -> ContainerNetwork:
    return lan.networks[NODE_A]


@pytest.fixture
def b(lan: Lan) -> ContainerNetwork:
    return lan.networks[NODE_B]


TARGETS = [(str(V4), PORT), (str(V6), PORT)]
TO_A, TO_B = node_addresses(NODE_A), node_addresses(NODE_B)


class Box:
    """A container's program: a UDP and a TCP server on every address."""

    def __init__(self, network: ContainerNetwork, addresses: list[Address]) -> None:
        path = network.create(ID, addresses)
        self.udp = [self._bound(path, each, socket.SOCK_DGRAM) for each in addresses]
        self.tcp = [self._bound(path, each, socket.SOCK_STREAM) for each in addresses]
        for each in self.tcp:
            each.listen()

    @staticmethod
    def _bound(path: Path, address: Address, kind: socket.SocketKind) -> socket.socket:
        def make() -> socket.socket:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            made = socket.socket(family, kind)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)
            made.bind((str(address), PORT))
            made.settimeout(IDLE_TIMEOUT_SECONDS)
            return made

        return namespaces.run_inside(path, make)

    def received(self, count: int) -> list[bytes]:
        """So many datagrams, over all addresses."""
        got: list[bytes] = []
        with selectors.DefaultSelector() as ready:
            for each in self.udp:
                ready.register(each, selectors.EVENT_READ, data=each)
            while len(got) < count:
                readable = ready.select(IDLE_TIMEOUT_SECONDS)
                assert readable, f"{len(got)} of {count} datagrams came"
                got += [key.data.recv(2048) for key, _ in readable]
        return got

    def hears_nothing(self) -> bool:
        with selectors.DefaultSelector() as ready:
            for each in self.udp:
                ready.register(each, selectors.EVENT_READ)
            return not ready.select(SHORT_SECONDS)

    def close(self) -> None:
        for each in self.udp + self.tcp:
            each.close()


@pytest.fixture
def boxes() -> Iterator[Callable[..., Box]]:
    made: list[Box] = []

    def make(network: ContainerNetwork, *addresses: Address) -> Box:
        made.append(Box(network, list(addresses or (V4, V6))))
        return made[-1]

    yield make
    for each in made:
        each.close()


def say(lan: Lan, name: str, *words: bytes, to: Address = V4) -> None:
    with lan.socket(name, socket.SOCK_DGRAM, ipv6=to.version == 6) as client:
        for word in words:
            client.sendto(word, (str(to), PORT))


class Wire:
    """Records all frames on one host's link."""

    def __init__(self, lan: Lan, name: str) -> None:
        self._socket = lan.inside(
            name, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 1024 * 1024)
        self._socket.bind(("eth0", 0))
        self._socket.setblocking(False)

    def frames(self) -> list[bytes]:
        seen = []
        with suppress(BlockingIOError):
            while True:
                seen.append(self._socket.recv(65536))
        return seen

    def icmp(self) -> list[bytes]:
        return [f for f in self.frames() if f[12:14] == b"\x08\x00" and f[23] == 1]

    def announces(self, address: IPv4Address) -> bool:
        """By a gratuitous ARP."""
        return any(
            f[12:14] == b"\x08\x06" and f[28:32] == f[38:42] == address.packed
            for f in self.frames()
        )

    def tcp_from(self, address: IPv4Address) -> list[bytes]:
        head = b"\x08\x00"
        return [
            f
            for f in self.frames()
            if f[12:14] == head and f[23] == 6 and f[26:30] == address.packed
        ]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def wire(lan: Lan) -> Iterator[Wire]:
    made = Wire(lan, MACHINE)
    yield made
    made.close()


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
    return True


def connecting(lan: Lan, name: str) -> socket.socket:
    client = lan.socket(name, socket.SOCK_STREAM)
    client.setblocking(False)
    with suppress(BlockingIOError):
        client.connect((str(V4), PORT))
    client.settimeout(IDLE_TIMEOUT_SECONDS)
    return client


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_served_container_is_reached_by_every_host(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box], host: str, address: Address
) -> None:
    box = boxes(a)
    a.serve(ID)
    say(lan, host, b"hello", to=address)
    assert box.received(1) == [b"hello"]


def test_containers_of_two_nodes_reach_each_other(
    a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    box = boxes(a)
    a.serve(ID)
    path = b.create(OTHER_ID, [NEIGHBOUR_V4])
    b.serve(OTHER_ID)
    with namespaces.run_inside(path, lambda: socket.create_connection((str(V4), PORT), 5)) as c:
        connection, peer = box.tcp[0].accept()
        connection.close()
        assert peer[0] == str(NEIGHBOUR_V4)
        assert c.recv(1) == b""


def test_a_container_looks_the_same_from_inside_on_every_node(
    a: ContainerNetwork, b: ContainerNetwork
) -> None:
    def look() -> tuple[object, ...]:
        with IPRoute() as routing:
            (link,) = routing.get_links(ifname="eth0")
            routes = [(r.get_attr("RTA_GATEWAY"), r["dst_len"]) for r in routing.get_routes()]
        mptcp = Path("/proc/sys/net/mptcp/enabled")
        return (
            link["index"],
            link.get_attr("IFLA_ADDRESS"),
            link.get_attr("IFLA_MTU"),
            sorted(map(str, routes)),
            mptcp.exists() and mptcp.read_text(),
        )

    seen = [namespaces.run_inside(each.create(ID, [V4, V6]), look) for each in (a, b)]
    assert seen[0] == seen[1]
    assert seen[0][-1] in (False, "0\n")


def test_a_container_without_addresses_has_loopback_alone(a: ContainerNetwork) -> None:
    def links() -> list[str]:
        with IPRoute() as routing:
            return [
                each.get_attr("IFLA_IFNAME") for each in routing.get_links() if each["flags"] & 1
            ]

    path = a.create(ID, [])
    a.serve(ID)
    a.divert(ID, via=TO_B)
    assert namespaces.run_inside(path, links) == ["lo"]
    a.destroy(ID)
    assert a.list() == ()


def test_a_created_copy_attracts_nothing(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    running, copy = boxes(a), boxes(b)
    a.serve(ID)
    for host in HOSTS:
        for address in (V4, V6):
            say(lan, host, host.encode(), to=address)
    assert sorted(running.received(6)) == sorted([m.encode() for m in HOSTS] * 2)
    assert copy.hears_nothing()
    assert lan.neighbour(MACHINE) == lan.mac(NODE_A)


def test_what_is_sent_while_held_arrives_in_order_and_nobody_is_refused(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box], wire: Wire
) -> None:
    source, target = boxes(a), boxes(b)
    a.serve(ID)
    say(lan, MACHINE, b"before")
    assert source.received(1) == [b"before"]
    b.hold(ID)
    a.divert(ID, via=TO_B)
    words = [i.to_bytes(4, "big") + bytes(1020) for i in range(2000)]
    for i in range(0, len(words), 50):
        say(lan, MACHINE, *words[i : i + 50])
    for host in (NODE_A, NODE_B):
        for address in (V4, V6):
            say(lan, host, *[host.encode()] * 10, to=address)
    assert target.hears_nothing()
    b.release(ID)
    got = target.received(len(words) + 40)
    assert [each for each in got if len(each) == 1024] == words
    assert source.hears_nothing()
    assert wire.icmp() == []


def test_a_connection_that_is_opened_while_held_waits_and_is_accepted_at_once(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    boxes(a)
    target = boxes(b)
    a.serve(ID)
    b.hold(ID)
    a.divert(ID, via=TO_B)
    clients = [connecting(lan, host) for host in HOSTS]
    assert target.hears_nothing()
    b.release(ID)
    released = time.monotonic()
    for _ in clients:
        connection, _ = target.tcp[0].accept()
        connection.close()
    # a lost SYN would be sent again after a whole second
    assert time.monotonic() - released < 0.5
    for client in clients:
        assert client.recv(1) == b""
        client.close()


@pytest.mark.parametrize("host", [MACHINE, NODE_A])
def test_a_dying_copy_is_not_heard(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box], host: str
) -> None:
    source = boxes(a)
    boxes(b)
    a.serve(ID)
    client = lan.inside(host, lambda: socket.create_connection((str(V4), PORT), 5))
    connection, _ = source.tcp[0].accept()
    b.hold(ID)
    a.divert(ID, via=TO_B)
    a.shut(ID)
    connection.close()
    client.settimeout(SHORT_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(1)
    a.forward(ID, via=TO_B)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.close()


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("filtering", ["0", "1", "2"])
@pytest.mark.parametrize("host", [MACHINE, NODE_A])
def test_a_diverted_copy_is_heard_until_it_is_shut(
    lan: Lan,
    a: ContainerNetwork,
    b: ContainerNetwork,
    boxes: Callable[..., Box],
    host: str,
    filtering: str,
    address: Address,
) -> None:
    every = Path("/proc/sys/net/ipv4/conf/all/rp_filter")
    lan.inside(NODE_A, lambda: every.write_text(filtering))
    a.prepare_node()
    source = boxes(a)
    a.serve(ID)
    client = lan.inside(host, lambda: socket.create_connection((str(address), PORT), 5))
    connection, _ = source.tcp[[V4, V6].index(address)].accept()
    b.create(ID, [V4, V6])
    b.hold(ID)
    a.divert(ID, via=TO_B)
    connection.send(b"heard")
    assert client.recv(5) == b"heard"
    a.shut(ID)
    connection.send(b"kept in")
    client.settimeout(SHORT_SECONDS)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.close()
    connection.close()


def test_what_a_diverted_copy_has_not_taken_up_is_known(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    source = boxes(a)
    b.create(ID, [V4, V6])
    a.serve(ID)
    assert not a.unread_queues(ID)
    clients = [lan.inside(MACHINE, partial(socket.create_connection, t, 5)) for t in TARGETS]
    say(lan, MACHINE, b"hello", to=V6)
    assert within(IDLE_TIMEOUT_SECONDS, lambda: a.unread_queues(ID).connections == 2)
    assert within(IDLE_TIMEOUT_SECONDS, lambda: a.unread_queues(ID).datagram_bytes > 0)
    b.hold(ID)
    a.divert(ID, via=TO_B)
    assert source.received(1) == [b"hello"]
    for each in source.tcp:
        each.accept()[0].close()
    assert not a.unread_queues(ID)
    for each in clients:
        each.close()


def test_a_held_copy_is_not_heard_before_its_release(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork
) -> None:
    path = b.create(ID, [V4])
    b.hold(ID)
    receiver = lan.socket(MACHINE, socket.SOCK_DGRAM)
    receiver.bind((str(node_addresses(MACHINE)[0]), PORT))
    receiver.settimeout(SHORT_SECONDS)
    sender = namespaces.run_inside(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender.sendto(b"too early", (str(node_addresses(MACHINE)[0]), PORT))
    with pytest.raises(TimeoutError):
        receiver.recv(100)
    b.release(ID)
    assert receiver.recv(100) == b"too early"
    sender.close()
    receiver.close()


def test_the_door_of_a_container_outlasts_a_loss_of_its_carrier(
    lan: Lan, b: ContainerNetwork
) -> None:
    path = b.create(ID, [V4, V6])
    lan.inside(NODE_B, lambda: set_link(link_name(ID), "down"))

    def seen() -> tuple[str, set[str]]:
        with IPRoute() as routing:
            (link,) = routing.get_links(ifname="eth0")
            found = routing.get_neighbours(ifindex=link["index"])
            return link.get_attr("IFLA_OPERSTATE"), {str(e.get_attr("NDA_DST")) for e in found}

    def has_lost_it() -> bool:  # told late, by a worker of the kernel
        return namespaces.run_inside(path, seen)[0] != "UP"

    assert within(IDLE_TIMEOUT_SECONDS, has_lost_it)
    assert {str(each) for each in gateways([V4, V6])} <= namespaces.run_inside(path, seen)[1]


def set_link(name: str, state: str) -> None:
    with IPRoute() as routing:
        (index,) = routing.link_lookup(ifname=name)
        routing.link("set", index=index, state=state)


def test_an_abort_loses_nothing_in_either_direction(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box], wire: Wire
) -> None:
    source, target = boxes(a), boxes(b)
    a.serve(ID)
    client = lan.inside(MACHINE, lambda: socket.create_connection((str(V4), PORT), 5))
    connection, _ = source.tcp[0].accept()
    b.hold(ID)
    a.divert(ID, via=TO_B)
    a.shut(ID)
    connection.send(b"from the container")
    client.send(b"from the client")
    words = [bytes([i]) for i in range(100)]
    for address in (V4, V6):
        say(lan, MACHINE, *words, to=address)
    assert target.hears_nothing()
    aborted = time.monotonic()
    a.undivert(ID)
    b.give_back(ID, via=TO_A)
    assert sorted(source.received(200)) == sorted(words * 2)
    assert client.recv(100) == b"from the container"
    assert connection.recv(100) == b"from the client"
    assert time.monotonic() - aborted < 0.15  # before any retransmission of what was held
    assert target.hears_nothing()
    b.destroy(ID)
    say(lan, MACHINE, b"after")
    say(lan, NODE_B, b"after")
    assert source.received(2) == [b"after"] * 2
    assert wire.icmp() == []
    connection.close()
    client.close()


def test_hosts_that_ask_while_held_are_told_of_the_target(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    boxes(a)
    target = boxes(b)
    a.serve(ID)
    b.hold(ID)
    a.divert(ID, via=TO_B)
    say(lan, MACHINE, b"new here")
    assert within(IDLE_TIMEOUT_SECONDS, lambda: lan.neighbour(MACHINE) == lan.mac(NODE_B))
    b.release(ID)
    assert target.received(1) == [b"new here"]


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
def test_a_host_that_has_just_learned_the_source_follows_the_announcement(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box], address: Address
) -> None:
    source, target = boxes(a), boxes(b)
    a.serve(ID)
    say(lan, MACHINE, b"once", to=address)
    assert source.received(1) == [b"once"]
    b.hold(ID)
    a.divert(ID, via=TO_B)
    a.announce(ID)  # as late as can be: the entry is within its lock time
    b.release(ID)
    assert within(0.5, lambda: lan.neighbour(MACHINE, address) == lan.mac(NODE_B))
    a.forward(ID, via=TO_B)
    a.forget_forward([V4, V6])
    say(lan, MACHINE, b"again", to=address)
    assert b"again" in target.received(1)


def test_a_host_that_gave_the_address_up_learns_it_from_the_announcement(
    lan: Lan, a: ContainerNetwork
) -> None:
    say(lan, MACHINE, b"nobody there")

    def failed() -> bool:
        def look() -> bool:
            with IPRoute() as routing:
                return any(
                    each.get_attr("NDA_DST") == str(V4) and each["state"] == NUD_FAILED
                    for each in routing.get_neighbours(family=socket.AF_INET)
                )

        return lan.inside(MACHINE, look)

    assert within(IDLE_TIMEOUT_SECONDS, failed)
    a.create(ID, [V4])
    a.serve(ID)
    assert within(0.5, lambda: lan.neighbour(MACHINE) == lan.mac(NODE_A))


def test_a_container_can_go_back_and_forth(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box], wire: Wire
) -> None:
    here = boxes(a)
    a.serve(ID)
    sides = [(a, TO_A), (b, TO_B)]
    for turn in range(6):
        (source, _), (target, there) = sides[turn % 2], sides[(turn + 1) % 2]
        here.close()
        here = boxes(target)
        target.hold(ID)
        source.divert(ID, via=there)
        for host in HOSTS:
            say(lan, host, f"{turn} {host}".encode())
        target.release(ID)
        source.forward(ID, via=there)
        assert sorted(here.received(3)) == sorted(f"{turn} {m}".encode() for m in HOSTS)
        assert [each.list() for each in (source, target)] == [(), (ID,)]
        assert target.forwards() == ()
        assert {each.address for each in source.forwards()} == {V4, V6}
    assert wire.icmp() == []


def test_the_former_node_forwards_until_told_to_forget(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box], wire: Wire
) -> None:
    boxes(a, V4)
    target = boxes(b, V4)
    a.serve(ID)
    b.hold(ID)
    a.divert(ID, via=TO_B)
    b.release(ID)
    a.forward(ID, via=TO_B)
    assert a.forwards() == (Forward(V4, TO_B[0]),)
    say(lan, NODE_A, b"by the forwarding route")
    assert target.received(1) == [b"by the forwarding route"]
    a.forget_forward([V4])
    a.forget_forward([V4])
    assert a.forwards() == ()
    say(lan, NODE_A, b"by asking")
    assert target.received(1) == [b"by asking"]
    assert wire.icmp() == []


def test_what_is_destroyed_leaves_nothing(lan: Lan, a: ContainerNetwork) -> None:
    def kernel() -> tuple[object, ...]:
        with IPRoute() as routing:
            links = sorted(each.get_attr("IFLA_IFNAME") for each in routing.get_links())
            routes = [r.get_attr("RTA_DST") for r in routing.get_routes(proto=84)]
            proxies = [
                n.get_attr("NDA_DST")
                for family in (socket.AF_INET, socket.AF_INET6)
                for n in routing.get_neighbours(family=family, flags=NTF_PROXY)
            ]
        return links, routes, proxies

    empty = lan.inside(NODE_A, kernel)
    path = a.create(ID, [V4, V6])
    a.serve(ID)
    a.divert(ID, via=TO_B)
    assert lan.inside(NODE_A, kernel) != empty
    for _ in range(2):
        a.destroy(ID)
        assert lan.inside(NODE_A, kernel) == empty
        assert not path.exists()
        assert a.list() == ()
    with pytest.raises(NotFound):
        a.hold(ID)


def test_what_a_crash_left_half_made_is_made_anew(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    path = a.create(ID, [V4])
    a.destroy(ID)
    path.touch()  # before the mount
    a.create(ID, [V4])

    def forget_owner() -> None:
        with IPRoute() as routing:
            for each in routing.get_links():
                if each.get_attr("IFLA_IFALIAS"):
                    routing.link("set", index=each["index"], ifalias="")

    lan.inside(NODE_A, forget_owner)
    assert a.list() == (ID,)
    box = boxes(a, V4)
    a.serve(ID)
    say(lan, MACHINE, b"hello")
    assert box.received(1) == [b"hello"]


def test_a_new_agent_finds_what_the_old_one_made_as_it_was(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    source, target = boxes(a), boxes(b)
    a.serve(ID)
    say(lan, MACHINE, b"before")
    assert source.received(1) == [b"before"]
    b.hold(ID)
    a.close()
    b.close()
    a, b = lan.start(NODE_A), lan.start(NODE_B)
    assert a.list() == b.list() == (ID,)
    a.create(ID, [V4, V6])
    b.create(ID, [V4, V6])
    say(lan, MACHINE, b"to the running one")
    assert source.received(1) == [b"to the running one"]
    a.divert(ID, via=TO_B)
    say(lan, MACHINE, b"to the held one")
    assert target.hears_nothing()
    b.release(ID)
    assert target.received(1) == [b"to the held one"]


def test_a_flap_of_the_underlay_is_mended(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    def flap() -> None:
        with IPRoute() as routing:
            (index,) = routing.link_lookup(ifname="eth0")
            routing.link("set", index=index, state="down")
            a.announce(ID)
            routing.link("set", index=index, state="up")

    box = boxes(a, V4)
    a.serve(ID)
    lan.inside(NODE_A, flap)
    assert a.refresh() == (ID,)
    assert a.refresh() == ()
    say(lan, MACHINE, b"hello")
    assert box.received(1) == [b"hello"]


def test_a_route_that_somebody_has_removed_is_set_again(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    def remove() -> None:
        with IPRoute() as routing:
            routing.route("del", dst=f"{V6}/128")

    box = boxes(a)
    a.serve(ID)
    assert a.refresh() == ()
    lan.inside(NODE_A, remove)
    assert a.refresh() == (ID,)
    say(lan, MACHINE, b"hello", to=V6)
    assert box.received(1) == [b"hello"]


def test_a_container_without_its_link_keeps_no_other_from_being_mended(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    def spoil() -> None:
        with IPRoute() as routing:
            routing.link("del", ifname=link_name(OTHER_ID))
            routing.route("del", dst=f"{V4}/32", scope=RT_SCOPE_LINK)

    box = boxes(a, V4)
    a.serve(ID)
    a.create(OTHER_ID, [NEIGHBOUR_V4])
    a.serve(OTHER_ID)
    lan.inside(NODE_A, spoil)
    assert a.refresh() == (ID,)
    say(lan, MACHINE, b"hello")
    assert box.received(1) == [b"hello"]


def test_a_link_that_was_made_anew_is_announced_on(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box], wire: Wire
) -> None:
    def remove() -> None:
        with IPRoute() as routing:
            routing.link("del", ifname="eth0")

    box = boxes(a, V4)
    a.serve(ID)
    lan.inside(NODE_A, remove)
    with pytest.raises(NotFound):
        a.refresh()
    descriptor = os.open(lan.directory / NODE_A, os.O_RDONLY)
    lan.inside("switch", lambda: plug_in(NODE_A, namespace=descriptor))
    os.close(descriptor)
    lan.inside(NODE_A, lambda: configure(NODE_A))
    assert a.refresh() == (ID,)
    say(lan, MACHINE, b"hello")
    assert box.received(1) == [b"hello"]
    assert within(IDLE_TIMEOUT_SECONDS, lambda: wire.announces(V4))


def test_another_address_of_the_node_is_spoken_from(
    lan: Lan, a: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    def change() -> None:
        with IPRoute() as routing:
            (index,) = routing.link_lookup(ifname="eth0")
            routing.addr("del", index=index, address=str(node_addresses(NODE_A)[0]), prefixlen=16)
            routing.addr("add", index=index, address=str(OTHER_V4), prefixlen=16)

    box = boxes(a, V4)
    a.serve(ID)
    lan.inside(NODE_A, change)
    assert a.refresh() == (ID,)
    assert OTHER_V4 in a.addresses
    say(lan, NODE_A, b"hello")
    assert box.received(1) == [b"hello"]


def test_a_refresh_leaves_a_diverted_container_diverted(
    lan: Lan, a: ContainerNetwork, b: ContainerNetwork, boxes: Callable[..., Box]
) -> None:
    source, target = boxes(a), boxes(b)
    a.serve(ID)
    b.hold(ID)
    a.divert(ID, via=TO_B)
    a.refresh()
    b.refresh()
    say(lan, MACHINE, b"hello")
    assert source.hears_nothing()
    assert target.hears_nothing()


def test_other_addresses_for_the_same_container_are_refused(a: ContainerNetwork) -> None:
    a.create(ID, [V4])
    with pytest.raises(Refused):
        a.create(ID, [NEIGHBOUR_V4])


def test_a_node_without_ipv6_cannot_take_over_an_ipv6_address(a: ContainerNetwork) -> None:
    a.create(ID, [V4, V6])
    a.serve(ID)
    with pytest.raises(InvalidInput):
        a.divert(ID, via=TO_B[:1])


async def test_the_steps_of_a_handover_are_quick_on_an_event_loop(
    a: ContainerNetwork, b: ContainerNetwork
) -> None:
    a.create(ID, [V4, V6])
    b.create(ID, [V4, V6])
    a.serve(ID)
    steps: dict[str, Callable[[], object]] = {
        "hold": lambda: b.hold(ID),
        "divert": lambda: a.divert(ID, via=TO_B),
        "untaken": lambda: a.unread_queues(ID),
        "shut": lambda: a.shut(ID),
        "undivert": lambda: a.undivert(ID),
        "release": lambda: b.release(ID),
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(20):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            taken[name].append((time.perf_counter() - start) * 1000)
    assert {n: ms for n, each in taken.items() if (ms := min(each)) > 2} == {}
