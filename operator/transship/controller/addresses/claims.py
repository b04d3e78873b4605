"""Takes addresses from an AddressPool and returns them, guarded by the pool's resourceVersion.

When two operators or two placements want the same address at the same time, one of them gets a
conflict, reads the pool again and decides anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from transship.api.address_pool import AddressPool, AddressPoolStatus
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.common.errors import Conflict, NotFound
from transship.common.tasks import for_each
from transship.controller.addresses.allocation import (
    Claimant,
    allocate,
    allocated,
    observed_status,
    with_allocations,
    without_allocations,
)
from transship.controller.ports import Cluster

DEFAULT_POOL = "default"
CONFLICT_RETRIES = 10
CONFLICT_PAUSE_SECONDS = 0.02


class AddressBook:
    """The allocations of all pools. Only this class writes a pool's status."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._locks: dict[str, asyncio.Lock] = {}  # so that our own tasks do not conflict

    async def take(self, placement: ContainerPlacement) -> tuple[str, ...]:
        """The addresses of the placement, allocated now if it has none."""
        claimant, network = _claimant(placement), placement.spec.network

        def allocation(pool: AddressPool) -> tuple[tuple[str, ...], AddressPoolStatus | None]:
            granted = allocate(pool, claimant)
            already = bool(allocated(pool, claimant))
            status = None if already else with_allocations(pool, granted)
            return tuple(grant.address for grant in granted), status

        return await self._change(network.address_pool or DEFAULT_POOL, allocation)

    async def give_back(self, placement: ContainerPlacement) -> None:
        """Return the addresses of the placement. A pool that is gone is no error."""
        uid = placement.metadata.uid

        def removal(pool: AddressPool) -> tuple[tuple[str, ...], AddressPoolStatus | None]:
            has_any = any(a.uid == uid for a in pool.status.allocations)
            return (), without_allocations(pool, uid=uid) if has_any else None

        try:
            await self._change(placement.spec.network.address_pool or DEFAULT_POOL, removal)
        except NotFound:
            return

    async def update_sizes(self, *, now: datetime) -> None:
        """Write the status of pools that are new or have changed."""
        changed = [
            pool
            for pool in await self._cluster.list(AddressPool)
            if pool.status.observed_generation != pool.metadata.generation
        ]
        await for_each(
            changed,
            lambda pool: self._update_size(pool, now=now),
            doing="writing the size of an address pool",
            name=lambda pool: pool.metadata.name,
        )

    async def _update_size(self, pool: AddressPool, *, now: datetime) -> None:
        # after a conflict with an allocation the next pass does it
        with suppress(Conflict):
            await self._cluster.replace_status_checked(pool, status=observed_status(pool, now=now))

    async def _change(
        self,
        name: str,
        change: Callable[[AddressPool], tuple[tuple[str, ...], AddressPoolStatus | None]],
    ) -> tuple[str, ...]:
        async with self._locks.setdefault(name, asyncio.Lock()):
            for attempt in range(CONFLICT_RETRIES):
                pool = await self._read(name)
                result, status = change(pool)
                if status is None:
                    return result
                try:
                    await self._cluster.replace_status_checked(pool, status=status)
                except Conflict:
                    await asyncio.sleep(CONFLICT_PAUSE_SECONDS * (attempt + 1))
                else:
                    return result
        raise Conflict(f"changing AddressPool {name}: it changes faster than it can be read")

    async def _read(self, name: str) -> AddressPool:
        try:
            return await self._cluster.get(AddressPool, name=name)
        except NotFound as e:
            raise NotFound(
                f"there is no AddressPool {name}",
                reason=Reason.POOL_NOT_FOUND,
                hint=Reason.POOL_NOT_FOUND.hint,
            ) from e


def _claimant(placement: ContainerPlacement) -> Claimant:
    meta, network = placement.metadata, placement.spec.network
    requested = network.addresses or ((network.address,) if network.address is not None else ())
    return Claimant(meta.namespace or "", meta.name, meta.uid, requested, network.ip_families)
