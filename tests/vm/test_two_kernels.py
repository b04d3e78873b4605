"""Two nodes with kernels of their own: Debian 12's, with soft-dirty bits, and with cgroup v2 alone.

Everything is emulated and an order of magnitude slower than usual, so nothing here is timed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import memory_scene
import pytest
from world import COUNTER_READY, World, condition

from transship.lab import cluster
from transship.lab.control_plane.assets import ensure_assets
from transship.lab.proof.workload import query_witness
from transship.lab.state import find_state, lab_dir

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

LAB = os.environ.get("TRANSSHIP_TEST_LAB", "vm")
IDLE_TIMEOUT_SECONDS = 600.0
MEMORY_MIB = 48
HUGE = ("hugetlb", "hugetlb shared")


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """As in e2e: for work on the tests themselves, $TRANSSHIP_KEEP_LAB leaves the lab."""
    keep = bool(os.environ.get("TRANSSHIP_KEEP_LAB"))
    left = find_state(lab_dir(LAB)) if keep else None
    try:
        lab = left or cluster.up(LAB, 2, say=_say, machines=True)
        yield World(lab, kubectl=ensure_assets(_say).kubectl, timeout_seconds=IDLE_TIMEOUT_SECONDS)
    finally:
        if not keep:
            cluster.down(LAB)


def test_the_kernels_have_soft_dirty_bits_and_no_scan_and_cgroup_v2(world: World) -> None:
    for node in world.lab.nodes:
        features = world.get("nodeagent", node)["status"]["features"]
        assert features["softDirty"]
        assert not features["pagemapScan"]
        assert features["cgroup"] == "v2"


def test_a_container_moves_between_two_kernels_and_back_whole_and_with_its_connection(
    world: World,
) -> None:
    env = [
        {"name": "MEMORY_MIB", "value": str(MEMORY_MIB)},
        {"name": "DIRTY_MIB_PER_SECOND", "value": "1"},
    ]
    container = {"image": world.image("witness"), "env": env, "readinessProbe": COUNTER_READY}
    world.apply("witness", container=container, migration={"strategy": "PreCopy"})
    address = world.await_running("witness", node="node-a")["address"]
    before = query_witness(address)

    with world.client("witness") as client:
        for node in ("node-b", "node-a"):
            world.move("witness", node)
            world.await_running("witness", node=node)
            world.goes_on(client)
            after = query_witness(address)
            assert (after.run, after.corruption) == (before.run, "")

    moves = world.migrations("witness")
    assert len(moves) == 2
    for move in moves:
        assert condition(move["status"], "Succeeded")["status"] == "True"
        assert move["status"]["strategy"] == "PreCopy"
        _assert_rounds_by_the_bits(move["status"]["rounds"])


def _assert_rounds_by_the_bits(rounds: list[dict[str, int]]) -> None:
    """Comparing everything again would find what to send, but not how much is left after it."""
    first, *later = rounds
    assert first["bytes"] > MEMORY_MIB << 20
    assert later
    assert all(one["bytes"] < first["bytes"] / 2 for one in later)
    assert any(one["dirtyBytes"] for one in rounds)


@pytest.mark.parametrize("strategy", ["PreCopy", "StopAndCopy", "PostCopy"])
def test_huge_pages_that_a_node_has_set_aside_arrive_bit_for_bit(
    world: World, strategy: str
) -> None:
    """Here, because a lab on the machine itself may take none from it."""
    name = f"huge-{strategy.lower()}"
    with memory_scene.program(world):
        memory_scene.start(world, name, strategy, *HUGE)
        memory_scene.goes_on(world, name, HUGE)
        for node in ("node-b", "node-a"):
            world.move(name, node)
            world.await_running(name, node=node)
            memory_scene.goes_on(world, name, HUGE)
        world.delete(name)
        world.await_gone(name)
