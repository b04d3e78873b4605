"""Addresses: which one a placement gets from a pool. An address stays with its placement."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network

from transship.api.address_pool import (
    AddressPool,
    AddressPoolStatus,
    Allocation,
)
from transship.api.conditions import condition, with_condition
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Refused


@dataclass(frozen=True)
class Claimant:
    """The placement that wants an address; requested: the one its spec asks for."""

    namespace: str
    name: str
    uid: str
    requested: str | None = None


def allocated(pool: AddressPool, claimant: Claimant) -> Allocation | None:
    """What the placement has already."""
    return next((a for a in pool.status.allocations if a.uid == claimant.uid), None)


def allocate(pool: AddressPool, claimant: Claimant) -> Allocation:
    """The address that the placement has or gets. Raises Refused or InvalidInput."""
    present = allocated(pool, claimant)
    if present is not None:
        return present
    network = network_of(pool)
    taken = {a.address: a for a in pool.status.allocations}
    if claimant.requested is None:
        address = _lowest_free(network, taken=taken.keys() | set(pool.spec.excluded))
        if address is None:
            raise Refused(
                f"AddressPool {pool.metadata.name} ({pool.spec.cidr}) has no free address: "
                f"{len(taken)} are allocated, {len(pool.spec.excluded)} excluded",
                reason=Reason.POOL_EXHAUSTED,
                hint=Reason.POOL_EXHAUSTED.hint,
            )
    else:
        address = _requested(network, pool, claimant.requested)
        if (holder := taken.get(address)) is not None:
            raise Refused(
                f"spec.network.address {address} is held by {holder.namespace}/{holder.name}",
                reason=Reason.ADDRESS_TAKEN,
                hint=Reason.ADDRESS_TAKEN.hint,
            )
    return Allocation(
        address=address, namespace=claimant.namespace, name=claimant.name, uid=claimant.uid
    )


def with_allocation(pool: AddressPool, allocation: Allocation) -> AddressPoolStatus:
    kept = [a for a in pool.status.allocations if a.uid != allocation.uid]
    return _counted(pool, [*kept, allocation])


def without_allocation(pool: AddressPool, *, uid: str) -> AddressPoolStatus:
    return _counted(pool, [a for a in pool.status.allocations if a.uid != uid])


def size_of(pool: AddressPool) -> int:
    """How many addresses the pool can give out in all."""
    network = network_of(pool)
    excluded = {IPv4Address(a) for a in pool.spec.excluded}
    usable = network.num_addresses - 2 if network.prefixlen < 31 else network.num_addresses
    return usable - sum(1 for a in excluded if _usable(network, a))


def observed(pool: AddressPool, *, now: datetime) -> AddressPoolStatus:
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


def network_of(pool: AddressPool) -> IPv4Network:
    try:
        return IPv4Network(pool.spec.cidr)
    except ValueError as e:
        raise InvalidInput(
            f"reading spec.cidr of AddressPool {pool.metadata.name}: {e}",
            reason=Reason.INVALID_CIDR,
            hint=Reason.INVALID_CIDR.hint,
        ) from e


def _usable(network: IPv4Network, address: IPv4Address) -> bool:
    if address not in network:
        return False
    ends = {network.network_address, network.broadcast_address}
    return network.prefixlen >= 31 or address not in ends


def _requested(network: IPv4Network, pool: AddressPool, requested: str) -> str:
    try:
        address = IPv4Address(requested)
    except ValueError as e:
        raise InvalidInput(
            f'spec.network.address must be an IPv4 address, not "{requested}"',
            reason=Reason.ADDRESS_NOT_IN_POOL,
            hint=Reason.ADDRESS_NOT_IN_POOL.hint,
        ) from e
    if not _usable(network, address) or str(address) in pool.spec.excluded:
        raise InvalidInput(
            f"spec.network.address {address} is not given out by AddressPool "
            f"{pool.metadata.name} ({pool.spec.cidr})",
            reason=Reason.ADDRESS_NOT_IN_POOL,
            hint=Reason.ADDRESS_NOT_IN_POOL.hint,
        )
    return str(address)


def _lowest_free(network: IPv4Network, *, taken: set[str]) -> str | None:
    return next((text for host in network.hosts() if (text := str(host)) not in taken), None)


def _counted(pool: AddressPool, allocations: list[Allocation]) -> AddressPoolStatus:
    ordered = sorted(allocations, key=lambda a: int(IPv4Address(a.address)))
    return pool.status.model_copy(
        update={
            "allocations": tuple(ordered),
            "allocated": len(ordered),
            "size": size_of(pool),
        }
    )
