"""Names and hardware addresses, derived from a container's id and addresses. Pure.

A container gets the same names and the same hardware address on every node, so that nothing inside
it changes when it moves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

# The container's next hop. Nothing resolves it: both ends know each other's hardware address.
GATEWAY_V4 = IPv4Address("169.254.1.1")
GATEWAY_V6 = IPv6Address("fe80::1")
MIRROR_V4 = IPv4Address("169.254.1.2")
MIRROR_V6 = IPv6Address("fe80::2")
HOST_MAC = "ee:ee:ee:ee:ee:ee"
LINK_PREFIX = "ts"
# with the prefix 14 characters: a link's name can have 15
LINK_HASH_DIGITS = 12
ALIAS_MARK = "transship"


@dataclass(frozen=True)
class Owner:
    """The container to which a link belongs, stored in the link's alias (up to 255 characters)."""

    container_id: str
    addresses: tuple[Address, ...]

    @property
    def has_ipv6(self) -> bool:
        return any(address.version == 6 for address in self.addresses)

    def alias(self) -> str:
        return " ".join([ALIAS_MARK, self.container_id, *map(str, self.addresses)])


def parse_alias(alias: str | None) -> Owner | None:
    """Parse an alias that `Owner.alias` made. None for a foreign or unfinished link."""
    words = (alias or "").split()
    if len(words) < 2 or words[0] != ALIAS_MARK:
        return None
    try:
        return Owner(words[1], tuple(ip_address(word) for word in words[2:]))
    except ValueError:
        return None


def link_name(container_id: str) -> str:
    digest = hashlib.sha256(container_id.encode()).hexdigest()
    return LINK_PREFIX + digest[:LINK_HASH_DIGITS]


def mac_address(address: Address) -> str:
    """Return the container's hardware address: locally administered, the same on every node."""
    if isinstance(address, IPv4Address):
        tail = address.packed
    else:
        tail = hashlib.sha256(address.packed).digest()[:4]
    return ":".join(f"{byte:02x}" for byte in b"\x0a\x58" + tail)


def gateway(address: Address) -> Address:
    return GATEWAY_V4 if isinstance(address, IPv4Address) else GATEWAY_V6


def mirror_gateway(address: Address) -> Address:
    """Return the next hop of packets that the container's namespace sends back (see links)."""
    return MIRROR_V4 if isinstance(address, IPv4Address) else MIRROR_V6


def gateways(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(gateway(address) for address in addresses))


def of_family(candidates: Sequence[Address], *, like: Address) -> Address | None:
    """Return the first candidate of the same IP family."""
    return next((address for address in candidates if address.version == like.version), None)
