"""What containers request of their nodes, and whether a node has that left.

As in the Kubernetes scheduler, the sum of the requests is compared with what the node has. What
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
    claims: Mapping[str, str] | None = None,
) -> dict[str, tuple[Demand, ...]]:
    """Of every placement that is on a node or on its way there; one that moves counts on both.

    A placement counts as long as it exists, also when it is stopped: it is started again where it
    is, without a check. claims: nodes by uid that are being written into a status just now.
    """
    known = {placement.metadata.uid: placement for placement in placements}
    places = {(uid, p.status.node) for uid, p in known.items() if p.status.node is not None}
    places |= {(uid, node) for uid, node in (claims or {}).items() if uid in known}
    for each in migrations:
        placement = known.get(each.spec.placement_uid)
        if placement is not None and _takes_place(each, placement):
            places.add((placement.metadata.uid, each.spec.target_node))
    demands = {uid: demand_of(known[uid]) for uid in {uid for uid, _ in places}}
    found: dict[str, tuple[Demand, ...]] = {}
    for uid, node in sorted(places):
        found[node] = (*found.get(node, ()), demands[uid])
    return found


def _takes_place(migration: ContainerMigration, placement: ContainerPlacement) -> bool:
    """It is under way, or it is over and the placement's status does not say so yet."""
    if not is_finished(migration):
        return True
    return was_released(migration) and migration.spec.epoch >= placement.status.epoch


def shortage(
    wanted: Demand, *, node: str, has: Capacity, demands: Iterable[Demand]
) -> Obstacle | None:
    """What a node has too little of for this placement, which itself does not count there.

    A node that has not told what it has takes everything, and what requests nothing always fits.
    """
    others = [each for each in demands if each.uid != wanted.uid]
    for amount in AMOUNTS:
        total, asked = amount.of_node(has), amount.of_demand(wanted)
        taken = sum(amount.of_demand(each) for each in others)
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
