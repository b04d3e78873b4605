from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st

from transship.network.announcements import frames, internet_checksum

MAC = "02:fc:00:00:00:01"
V4, V6 = ip_address("10.200.128.5"), ip_address("fd00::8005")


def test_an_ipv4_address_is_announced_by_a_request_and_a_reply_to_everybody() -> None:
    request, reply = (each.hex() for each in frames(V4, mac=MAC))
    ethernet = "ffffffffffff02fc000000010806"
    sender = "02fc000000010ac88005"
    assert request == ethernet + "0001080006040001" + sender + "0000000000000ac88005"
    assert reply == ethernet + "0001080006040002" + sender + sender


def test_an_ipv6_address_is_announced_by_an_advertisement_that_overrides() -> None:
    (frame,) = frames(V6, mac=MAC)
    assert frame[:14].hex() == "33330000000102fc0000000186dd"
    assert frame[21] == 255  # another hop limit is ignored
    assert frame[54] == 136
    assert frame[58:62].hex() == "20000000"
    assert frame[62:78] == V6.packed
    assert frame[78:].hex() == "020102fc00000001"


@given(st.ip_addresses(v=6))
def test_the_checksum_of_an_advertisement_holds(address: IPv6Address) -> None:
    (frame,) = frames(address, mac=MAC)
    body = frame[54:]
    pseudo = frame[22:54] + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    assert internet_checksum(pseudo + body) == 0
