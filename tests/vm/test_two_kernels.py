"""Two nodes with kernels of their own: Debian 12's, with soft-dirty bits, and with cgroup v2 alone.

Everything is emulated and an order of magnitude slower than usual, so nothing here is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from world import World, condition

from transship.lab import cluster
from transship.lab.assets import ensure_assets

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

LAB = "vm"
PATIENCE_SECONDS = 600.0
MEMORY_MIB = 48


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    try:
        lab = cluster.up(LAB, 2, say=_say, machines=True)
        yield World(lab, kubectl=ensure_assets(_say).kubectl, patience_seconds=PATIENCE_SECONDS)
    finally:
        cluster.down(LAB)


def test_the_kernels_have_soft_dirty_bits_and_no_scan_and_cgroup_v2(world: World) -> None:
    for node in world.lab.nodes:
        features = world.get("nodeagent", node)["status"]["features"]
        assert features["softDirty"]
        assert not features["pagemapScan"]
        assert features["cgroup"] == "v2"


def test_a_container_moves_between_two_kernels_and_back_with_its_connection(world: World) -> None:
    env = [
        {"name": "MEMORY_MIB", "value": str(MEMORY_MIB)},
        {"name": "DIRTY_MIB_PER_SECOND", "value": "1"},
    ]
    world.apply("counter", container={"env": env}, migration={"strategy": "PreCopy"})
    world.await_running("counter", node="node-a")

    with world.client("counter") as client:
        for node in ("node-b", "node-a"):
            world.move("counter", node)
            world.await_running("counter", node=node)
            world.goes_on(client)

    moves = world.migrations("counter")
    assert [condition(move["status"], "Succeeded")["status"] for move in moves] == ["True", "True"]
    for move in moves:
        first, *later = move["status"]["rounds"]
        assert first["bytes"] > MEMORY_MIB << 20
        # by the bits, not by comparing everything again: a round sends what was written meanwhile
        assert later
        assert all(one["bytes"] < first["bytes"] / 2 for one in later)
