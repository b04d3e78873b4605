"""Allocation: the addresses that a placement gets from a pool, and keeps until it is deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from transship.api.address_pool import (
    AddressPool,
    AddressPoolStatus,
    Allocation,
)
from transship.api.base import IPFamily
from transship.api.conditions import condition, with_condition
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Refused

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

MAX_SIZE = 2**31 - 1  # of an int32 in the API; an IPv6 network has more


@dataclass(frozen=True)
class Claimant:
    """The placement that wants addresses; requested and families: what its spec asks for."""

    namespace: str
    name: str
    uid: str
    requested: tuple[str, ...] = ()
    families: tuple[IPFamily, ...] = ()


def allocated(pool: AddressPool, claimant: Claimant) -> tuple[Allocation, ...]:
    """The addresses that the placement has already, in the order that its spec asks for."""
    families = claimant.families or tuple(map(family_of, networks_of(pool)))
    mine = [a for a in pool.status.allocations if a.uid == claimant.uid]
    return tuple(sorted(mine, key=lambda a: families.index(family_of(ip_address(a.address)))))


def allocate(pool: AddressPool, claimant: Claimant) -> tuple[Allocation, ...]:
    """The addresses that the placement has or gets, all or none. Raises Refused or InvalidInput."""
    present = allocated(pool, claimant)
    if present:
        return present
    networks = _wanted(pool, claimant)
    requested = {_network_of(address, networks, pool): address for address in claimant.requested}
    addresses = [
        _lowest_free(network, pool)
        if network not in requested
        else _requested(pool, requested[network])
        for network in networks
    ]
    return tuple(
        Allocation(
            address=str(address), namespace=claimant.namespace, name=claimant.name, uid=claimant.uid
        )
        for address in addresses
    )


def with_allocations(pool: AddressPool, allocations: Sequence[Allocation]) -> AddressPoolStatus:
    others = {a.uid for a in allocations}
    kept = [a for a in pool.status.allocations if a.uid not in others]
    return _counted(pool, [*kept, *allocations])


def without_allocations(pool: AddressPool, *, uid: str) -> AddressPoolStatus:
    return _counted(pool, [a for a in pool.status.allocations if a.uid != uid])


def size_of(pool: AddressPool) -> int:
    """How many addresses the pool can give out in all."""
    excluded = _excluded(pool)
    return min(MAX_SIZE, sum(_size(network, excluded) for network in networks_of(pool)))


def observed_status(pool: AddressPool, *, now: datetime) -> AddressPoolStatus:
    """The pool's status for its present spec: its size, and whether it can give out anything."""
    try:
        size, problem = size_of(pool), None
    except InvalidInput as e:
        size, problem = 0, e
    ready = condition(
        "Ready",
        problem is None,
        reason=Reason.POOL_READY if problem is None else problem.reason,
        message=Reason.POOL_READY.meaning if problem is None else problem.message,
        generation=pool.metadata.generation,
        now=now,
    )
    return pool.status.model_copy(
        update={
            "observed_generation": pool.metadata.generation,
            "conditions": with_condition(pool.status.conditions, ready),
            "size": size,
            "allocated": len(pool.status.allocations),
        }
    )


def networks_of(pool: AddressPool) -> tuple[IPNetwork, ...]:
    try:
        return tuple(map(ip_network, pool.spec.networks))
    except ValueError as e:
        raise InvalidInput(
            f"reading the networks of AddressPool {pool.metadata.name}: {e}",
            reason=Reason.INVALID_CIDR,
            hint=Reason.INVALID_CIDR.hint,
        ) from e


def family_of(address: IPAddress | IPNetwork) -> IPFamily:
    return IPFamily.IPV4 if address.version == 4 else IPFamily.IPV6


def _wanted(pool: AddressPool, claimant: Claimant) -> tuple[IPNetwork, ...]:
    """The networks to allocate from, in the order that the spec asks for."""
    has = {family_of(network): network for network in networks_of(pool)}
    missing = [family for family in claimant.families if family not in has]
    if missing:
        raise InvalidInput(
            f"spec.network.ipFamilies asks for {missing[0]}, AddressPool {pool.metadata.name} has "
            f"{_text(pool)}",
            reason=Reason.IP_FAMILY_NOT_IN_POOL,
            hint=Reason.IP_FAMILY_NOT_IN_POOL.hint,
        )
    return tuple(has[family] for family in claimant.families or has)


def _size(network: IPNetwork, excluded: set[IPAddress]) -> int:
    unusable = sum(1 for address in _ends(network) | excluded if address in network)
    return network.num_addresses - unusable


def _ends(network: IPNetwork) -> set[IPAddress]:
    """Never given out: network and broadcast address; in IPv6 the subnet-router anycast address."""
    if isinstance(network, IPv6Network):
        return {network.network_address}
    if network.prefixlen >= 31:
        return set()
    return {network.network_address, network.broadcast_address}


def _excluded(pool: AddressPool) -> set[IPAddress]:
    return set(map(ip_address, pool.spec.excluded))


def _network_of(requested: str, networks: Sequence[IPNetwork], pool: AddressPool) -> IPNetwork:
    """The network that a requested address is in."""
    try:
        address = ip_address(requested)
    except ValueError as e:
        raise InvalidInput(
            f'spec.network.address must be an IP address, not "{requested}"',
            reason=Reason.ADDRESS_NOT_IN_POOL,
            hint=Reason.ADDRESS_NOT_IN_POOL.hint,
        ) from e
    for network in networks:
        if address in network and address not in _ends(network) | _excluded(pool):
            return network
    raise InvalidInput(
        f"spec.network.address {address} is not given out by AddressPool "
        f"{pool.metadata.name} ({_text(pool)})",
        reason=Reason.ADDRESS_NOT_IN_POOL,
        hint=Reason.ADDRESS_NOT_IN_POOL.hint,
    )


def _requested(pool: AddressPool, requested: str) -> IPAddress:
    address = ip_address(requested)
    holder = next((a for a in pool.status.allocations if ip_address(a.address) == address), None)
    if holder is not None:
        raise Refused(
            f"spec.network.address {address} is held by {holder.namespace}/{holder.name}",
            reason=Reason.ADDRESS_TAKEN,
            hint=Reason.ADDRESS_TAKEN.hint,
        )
    return address


def _lowest_free(network: IPNetwork, pool: AddressPool) -> IPAddress:
    taken = {ip_address(a.address) for a in pool.status.allocations}
    excluded = _excluded(pool)
    unusable = taken | excluded
    free = next((host for host in network.hosts() if host not in unusable), None)
    if free is None:
        raise Refused(
            f"AddressPool {pool.metadata.name} ({network}) has no free address: "
            f"{sum(1 for address in taken if address in network)} are allocated, "
            f"{sum(1 for address in excluded if address in network)} excluded",
            reason=Reason.POOL_EXHAUSTED,
            hint=Reason.POOL_EXHAUSTED.hint,
        )
    return free


def _text(pool: AddressPool) -> str:
    return ", ".join(pool.spec.networks)


def _counted(pool: AddressPool, allocations: list[Allocation]) -> AddressPoolStatus:
    def order(allocation: Allocation) -> tuple[int, int]:
        address = ip_address(allocation.address)
        return address.version, int(address)

    return pool.status.model_copy(
        update={
            "allocations": tuple(sorted(allocations, key=order)),
            "allocated": len(allocations),
            "size": size_of(pool),
        }
    )
