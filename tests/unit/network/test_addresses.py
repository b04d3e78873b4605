from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.network.addresses import (
    Owner,
    gateways,
    link_name,
    mac_address,
    of_family,
    parse_alias,
)

V4, V6 = ip_address("10.200.128.5"), ip_address("fd00::8005")
IDS = st.uuids().map(str)
ADDRESSES = st.lists(st.ip_addresses(), max_size=2).map(tuple)


@given(IDS)
def test_a_link_name_fits_into_the_kernels_fifteen_characters(container_id: str) -> None:
    assert len(link_name(container_id)) < 16


@given(IDS, IDS)
def test_different_containers_have_different_links(one: str, other: str) -> None:
    assert (link_name(one) == link_name(other)) == (one == other)


@given(IDS, ADDRESSES)
def test_an_alias_says_whose_link_it_is(
    container_id: str, addresses: tuple[IPv4Address | IPv6Address, ...]
) -> None:
    owner = Owner(container_id, addresses)
    assert parse_alias(owner.alias()) == owner
    assert len(owner.alias()) < 256


@pytest.mark.parametrize(
    "alias", [None, "", "uplink to rack 3", "transship", "transship id not-an-address"]
)
def test_a_link_of_somebody_else_has_no_owner(alias: str | None) -> None:
    assert parse_alias(alias) is None


@given(st.ip_addresses())
def test_a_hardware_address_is_local_and_of_one_station(
    address: IPv4Address | IPv6Address,
) -> None:
    first = int(mac_address(address).split(":")[0], 16)
    assert first & 0b11 == 0b10


def test_a_hardware_address_tells_the_ipv4_address() -> None:
    assert mac_address(V4) == "0a:58:0a:c8:80:05"


def test_there_is_one_gateway_per_ip_version() -> None:
    assert gateways([V4, V4, V6]) == (ip_address("169.254.1.1"), ip_address("fe80::1"))
    assert gateways([]) == ()


def test_the_next_hop_is_of_the_same_ip_version() -> None:
    nodes = [ip_address("10.200.0.11"), ip_address("fd00::b")]
    assert of_family(nodes, like=V6) == nodes[1]
    assert of_family(nodes[:1], like=V6) is None
