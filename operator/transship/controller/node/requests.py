"""What containers request of their nodes, and whether a node has enough left.

As in the Kubernetes scheduler, the sum of the requests is compared with the node's capacity. What
containers really use does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from transship.api.container import Resources
from transship.api.migration import ContainerMigration
from transship.api.node_agent import Capacity
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import ContainerPlacement
from transship.api.quantity import bytes_of, millicores_of
from transship.api.reasons import Reason
from transship.controller.migration.history import is_finished, was_released


@dataclass(frozen=True)
class Demand:
    """What one placement requests; a request that is not set is its limit, as in a Pod."""

    uid: str
    cpu_millicores: int = 0
    memory_bytes: int = 0
    pids: int = 0


def demand_of(placement: ContainerPlacement) -> Demand:
    return demand(placement.metadata.uid, placement.spec.container.resources)


def demand(uid: str, resources: Resources) -> Demand:
    asked, limits = resources.requests, resources.limits

    def amount(kind: str, read: Callable[[str | int], int]) -> int:
        given = getattr(asked, kind)
        given = getattr(limits, kind) if given is None else given
        return 0 if given is None else read(given)

    return Demand(
        uid=uid,
        cpu_millicores=amount("cpu", millicores_of),
        memory_bytes=amount("memory", bytes_of),
        pids=amount("pids", bytes_of),
    )


def demands_by_node(
    placements: Iterable[ContainerPlacement],
    migrations: Iterable[ContainerMigration],
    *,
    reserved: Mapping[str, str] | None = None,
) -> dict[str, tuple[Demand, ...]]:
    """Of every placement that is on a node or on its way there; one that moves counts on both.

    A placement counts as long as it exists, also when it is stopped: it is started again where it
    is, without a check. claims: nodes by uid that are being written into a status just now.
    """
    by_uid = {placement.metadata.uid: placement for placement in placements}
    places = {(uid, p.status.node) for uid, p in by_uid.items() if p.status.node is not None}
    places |= {(uid, node) for uid, node in (reserved or {}).items() if uid in by_uid}
    for migration in migrations:
        placement = by_uid.get(migration.spec.placement_uid)
        if placement is not None and _takes_place(migration, placement):
            places.add((placement.metadata.uid, migration.spec.target_node))
    demands = {uid: demand_of(by_uid[uid]) for uid in {uid for uid, _ in places}}
    demanded: dict[str, tuple[Demand, ...]] = {}
    for uid, node in sorted(places):
        demanded[node] = (*demanded.get(node, ()), demands[uid])
    return demanded


def _takes_place(migration: ContainerMigration, placement: ContainerPlacement) -> bool:
    """It is under way, or it is over and the placement's status does not say so yet."""
    if not is_finished(migration):
        return True
    return was_released(migration) and migration.spec.epoch >= placement.status.epoch


def shortage(
    wanted: Demand, *, node: str, has: Capacity, demands: Iterable[Demand]
) -> Obstacle | None:
    """What a node has too little of for this placement, which itself does not count there.

    A node without a known capacity takes everything, and what requests nothing always fits.
    """
    others = [other for other in demands if other.uid != wanted.uid]
    for amount in AMOUNTS:
        total, asked = amount.of_node(has), amount.of_demand(wanted)
        taken = sum(amount.of_demand(other) for other in others)
        if total and asked and asked + taken > total:
            return obstacle(
                amount.reason,
                f"the container requests {amount.text(asked)}; node {node} has "
                f"{amount.text(total)}, other placements there request {amount.text(taken)}",
            )
    return None


@dataclass(frozen=True)
class Amount:
    """One kind of what is requested."""

    reason: Reason
    of_node: Callable[[Capacity], int]
    of_demand: Callable[[Demand], int]
    text: Callable[[int], str]


AMOUNTS = (
    Amount(
        Reason.INSUFFICIENT_CPU,
        lambda has: has.cpu_millicores,
        lambda wanted: wanted.cpu_millicores,
        lambda count: f"{count}m of CPU",
    ),
    Amount(
        Reason.INSUFFICIENT_MEMORY,
        lambda has: has.memory_bytes,
        lambda wanted: wanted.memory_bytes,
        lambda count: f"{count / 2**20:.0f} MiB of memory",
    ),
    Amount(
        Reason.INSUFFICIENT_PIDS,
        lambda has: has.pids,
        lambda wanted: wanted.pids,
        lambda count: f"{count} pids",
    ),
)
