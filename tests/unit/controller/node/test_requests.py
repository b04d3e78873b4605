"""What containers request, what of a node is taken, and what still fits."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.resources import UID, ended, migration, node_agent, placement
from transship.api.container import Resources
from transship.api.obstacle import Obstacle
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.controller.node.nodes import Node, lack
from transship.controller.node.requests import Demand, demand, demands_by_node

GIBI = 2**30
CAPACITY = {"cpuMillicores": 4000, "memoryBytes": 8 * GIBI, "pids": 1000}


def resources(**words: Any) -> Resources:
    return Resources.model_validate(words)


def asking(uid: str, memory: str, **more: Any) -> ContainerPlacement:
    container = {"image": "web", "resources": {"requests": {"memory": memory}}}
    return placement(uid, uid=uid, container=container, **more)


def node(*demands: Demand, **capacity: int) -> Node:
    return Node(node_agent("node-a", capacity={**CAPACITY, **capacity}), demands=demands)


def reason(found: Obstacle | None) -> str | None:
    return None if found is None else found.reason


def test_a_request_that_is_not_set_is_its_limit() -> None:
    both = resources(requests={"cpu": "500m"}, limits={"cpu": 2, "memory": "1Gi", "pids": 10})
    assert demand("x", both) == Demand("x", cpu_millicores=500, memory_bytes=GIBI, pids=10)
    assert demand("x", resources()) == Demand("x")


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ({"memory": "500Gi"}, Reason.INSUFFICIENT_MEMORY),
        ({"cpu": "4001m"}, Reason.INSUFFICIENT_CPU),
        ({"pids": 1001}, Reason.INSUFFICIENT_PIDS),
        ({"cpu": 4, "memory": "8Gi", "pids": 1000}, None),
        ({}, None),
    ],
)
def test_what_a_node_has_not_got_is_named(
    requests: dict[str, Any], expected: Reason | None
) -> None:
    assert reason(lack(node(), demand(UID, resources(requests=requests)))) == expected


def test_the_requests_of_the_others_count_and_ones_own_do_not() -> None:
    wanted = Demand(UID, memory_bytes=3 * GIBI)
    other = Demand("other", memory_bytes=5 * GIBI)
    assert lack(node(other, wanted), wanted) is None
    found = lack(node(other, Demand("third", memory_bytes=1)), wanted)
    assert found is not None
    assert found.reason == Reason.INSUFFICIENT_MEMORY
    assert "requests 3072 MiB" in found.message
    assert "node-a has 8192 MiB" in found.message
    assert "request 5120 MiB" in found.message


def test_what_requests_nothing_fits_on_a_full_node_and_everything_on_one_that_tells_nothing() -> (
    None
):
    full = node(Demand("other", cpu_millicores=9000, memory_bytes=99 * GIBI))
    assert lack(full, Demand(UID)) is None
    silent = node(cpuMillicores=0, memoryBytes=0, pids=0)
    assert lack(silent, Demand(UID, memory_bytes=99 * GIBI, pids=9)) is None


def test_a_placement_counts_where_it_is_and_where_it_goes_until_that_is_over() -> None:
    on_a = asking(UID, "1Gi", status={"node": "node-a", "epoch": 1})
    unplaced = asking("other", "1Gi", target_node="node-a")
    one = Demand(UID, memory_bytes=GIBI)
    assert demands_by_node([on_a, unplaced], []) == {"node-a": (one,)}
    under_way = demands_by_node([on_a], [migration()])
    assert under_way == {"node-a": (one,), "node-b": (one,)}
    failed = demands_by_node([on_a], [ended(migration(), good=False)])
    assert failed == {"node-a": (one,)}
    unnoted = demands_by_node([on_a], [ended(migration(), good=True)])
    assert unnoted["node-b"] == (one,)
    on_b = asking(UID, "1Gi", status={"node": "node-b", "epoch": 2})
    assert demands_by_node([on_b], [ended(migration(), good=True)]) == {"node-b": (one,)}


def test_a_claim_counts_before_it_is_written() -> None:
    found = demands_by_node([asking(UID, "1Gi")], [], reserved={UID: "node-b", "gone": "node-b"})
    assert found == {"node-b": (Demand(UID, memory_bytes=GIBI),)}
