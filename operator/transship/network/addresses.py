"""Names and addresses that follow from a container's id and its addresses alone.

Pure: the same container gets the same names and hardware address on every node, so that nothing
inside it can tell that it has moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

# the container's next hop, never asked for: both ends know each other's hardware address
GATEWAY_V4 = IPv4Address("169.254.1.1")
GATEWAY_V6 = IPv6Address("fe80::1")
MIRROR_V4 = IPv4Address("169.254.1.2")
MIRROR_V6 = IPv6Address("fe80::2")
HOST_MAC = "ee:ee:ee:ee:ee:ee"
LINK_PREFIX = "ts"
LINK_HASH_DIGITS = 12  # a link's name holds 15 characters
ALIAS_MARK = "transship"


@dataclass(frozen=True)
class Owner:
    """Whose link it is, as written in the link's alias (255 characters at most)."""

    container_id: str
    addresses: tuple[Address, ...]

    @property
    def has_ipv6(self) -> bool:
        return any(each.version == 6 for each in self.addresses)

    def alias(self) -> str:
        return " ".join([ALIAS_MARK, self.container_id, *map(str, self.addresses)])


def parse_alias(alias: str | None) -> Owner | None:
    """Read what `Owner.alias` wrote; nothing for links that are not ours or not finished."""
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
    """The container's hardware address, locally administered, the same wherever it runs."""
    if isinstance(address, IPv4Address):
        tail = address.packed
    else:
        tail = hashlib.sha256(address.packed).digest()[:4]
    return ":".join(f"{byte:02x}" for byte in b"\x0a\x58" + tail)


def gateway(address: Address) -> Address:
    return GATEWAY_V4 if isinstance(address, IPv4Address) else GATEWAY_V6


def mirror_gateway(address: Address) -> Address:
    """The next hop of packets that only turn around in the container's namespace."""
    return MIRROR_V4 if isinstance(address, IPv4Address) else MIRROR_V6


def gateways(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(gateway(address) for address in addresses))


def of_family(candidates: Sequence[Address], *, like: Address) -> Address | None:
    """The first candidate of the same IP version."""
    return next((each for each in candidates if each.version == like.version), None)
