"""Two nodes and a machine on one link, each in a network namespace of the test's own.

What the members of the link see of a container's address while it is created, held, diverted,
released, given back.
"""

from __future__ import annotations

import os
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TypeVar

import pytest
from pyroute2 import IPRoute
from transship.common.errors import InvalidInput, NotFound, Refused
from transship.network import Address, ContainerNetwork, Forward, namespaces

pytestmark = pytest.mark.lab

T = TypeVar("T")
MACHINE, NODE_A, NODE_B = "machine", "node-a", "node-b"
MEMBERS = {MACHINE: 1, NODE_A: 11, NODE_B: 12}
V4 = ip_address("10.222.128.5")
V6 = ip_address("fd00:222::8005")
NEIGHBOUR_V4 = ip_address("10.222.128.6")
ID = "0b7c7f0e-6d0a-4d3f-9a51-1f6b0f0f9c11"
OTHER_ID = "5d0d4f2c-1c8e-4a86-8d22-7ad0a2a4f4d2"
PORT = 7000
PATIENCE_SECONDS = 10.0
SHORT_SECONDS = 0.3  # long enough for an answer that must not come


def node_addresses(name: str) -> list[Address]:
    number = MEMBERS[name]
    return [ip_address(f"10.222.0.{number}"), ip_address(f"fd00:222::{number:x}")]


class Lan:
    """The members' namespaces and the switch that joins them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.networks: dict[str, ContainerNetwork] = {}
        namespaces.create(directory / "switch", prepare=make_switch)
        for name in MEMBERS:
            namespaces.create(directory / name, prepare=lambda: None)
            descriptor = os.open(directory / name, os.O_RDONLY)
            self.inside("switch", lambda n=name, fd=descriptor: plug_in(n, namespace=fd))
            os.close(descriptor)
            self.inside(name, lambda n=name: configure(n))
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
        for name in ("switch", *MEMBERS):
            namespaces.delete(self.directory / name)

    def socket(self, name: str, kind: socket.SocketKind, *, ipv6: bool = False) -> socket.socket:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        return self.inside(name, lambda: socket.socket(family, kind))

    def neighbour(self, name: str, address: Address = V4) -> str | None:
        """The hardware address that a member has for the address."""

        def look() -> str | None:
            with IPRoute() as routing:
                family = socket.AF_INET if address.version == 4 else socket.AF_INET6
                for each in routing.get_neighbours(family=family):
                    if each.get_attr("NDA_DST") == str(address):
                        return each.get_attr("NDA_LLADDR")
            return None

        return self.inside(name, look)

    def mac(self, name: str) -> str:
        def look() -> str:
            with IPRoute() as routing:
                (link,) = routing.get_links(ifname="eth0")
                return link.get_attr("IFLA_ADDRESS")

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
