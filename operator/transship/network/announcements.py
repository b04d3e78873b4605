"""Announces on a link that an address has moved here.

IPv4: a gratuitous ARP, which overrides a neighbour's entry whatever its age (Linux's locktime does
not apply). It is sent as request and as reply, because some stacks accept only one of the two.
IPv6: an unsolicited neighbour advertisement.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from loguru import logger

from transship.network.addresses import Address

ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6
ARP_REQUEST = 1
ARP_REPLY = 2
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
NEXT_HEADER_ICMPV6 = 58
NEIGHBOUR_ADVERTISEMENT = 136
FLAG_OVERRIDE = 0x20000000
# option 2, one unit of 8 bytes
TARGET_LINK_ADDRESS = b"\x02\x01"


class Announcer:
    """A packet socket on one link, in the network namespace of the thread that made it."""

    def __init__(self, link: str) -> None:
        # protocol 0: the socket receives nothing
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((link, 0))

    def announce(self, addresses: Sequence[Address], *, mac: str) -> None:
        """Announce the addresses. A failure is only logged.

        The former node forwards packets, and the announcement is repeated.
        """
        for address in addresses:
            for frame in frames(address, mac=mac):
                try:
                    self._socket.send(frame)
                except OSError as e:
                    logger.bind(address=str(address), error=str(e)).debug("could not announce")

    def close(self) -> None:
        self._socket.close()


def frames(address: Address, *, mac: str) -> list[bytes]:
    """Return the Ethernet frames that announce an address."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if isinstance(address, IPv6Address):
        return [unsolicited_advertisement(address, raw)]
    return [
        gratuitous_arp(address, raw, operation=ARP_REQUEST),
        gratuitous_arp(address, raw, operation=ARP_REPLY),
    ]


def gratuitous_arp(address: IPv4Address, mac: bytes, *, operation: int) -> bytes:
    # Linux accepts a reply as gratuitous only if both hardware addresses are the same
    target_mac = mac if operation == ARP_REPLY else bytes(6)
    ethernet = BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return ethernet + head + mac + address.packed + target_mac + address.packed


def unsolicited_advertisement(address: IPv6Address, mac: bytes) -> bytes:
    body = (
        struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, FLAG_OVERRIDE)
        + address.packed
        + TARGET_LINK_ADDRESS
        + mac
    )
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!II", len(body), NEXT_HEADER_ICMPV6)
    checksum = internet_checksum(pseudo + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), NEXT_HEADER_ICMPV6, 255)
    ethernet = ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6)
    return ethernet + header + address.packed + ALL_NODES.packed + body


def internet_checksum(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
