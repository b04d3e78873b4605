"""Deletions that begin without an operator, or whose operator ends before they do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from world import World, condition

from transship.api import FINALIZER

pytestmark = pytest.mark.lab

BIG = [{"name": "MEMORY_MIB", "value": "512"}, {"name": "DIRTY_MIB_PER_SECOND", "value": "20"}]
SLOW_LINK = "200mbit"  # the move is still under way when all the commands of a test are given


@pytest.fixture(autouse=True)
def _services(world: World) -> Iterator[None]:
    """Whatever a test left killed runs again, so that its placements can be deleted."""
    yield
    world.restart("operator")
    world.restart("agent:node-a")


def uid_of(world: World, name: str) -> str:
    return str(world.get("placement", name)["metadata"]["uid"])


def held(world: World, kind: str, name: str) -> bool:
    """It is being deleted, and has our finalizer."""
    meta = world.get(kind, name)["metadata"]
    return "deletionTimestamp" in meta and FINALIZER in meta.get("finalizers", [])


def await_nothing_left(world: World, name: str, uid: str) -> None:
    world.await_gone(name)
    world.until(lambda: world.leftovers(uid) == {}, "the nodes are clean")
    allocations = world.get("apool", "default").get("status", {}).get("allocations", [])
    assert uid not in [a["uid"] for a in allocations]


def test_a_placement_deleted_while_no_operator_runs_is_ended_by_the_next_one(
    world: World,
) -> None:
    world.apply("counter")
    world.await_running("counter", node="node-a")
    uid = uid_of(world, "counter")

    world.kill("operator")
    world.delete("counter")
    assert held(world, "placement", "counter")
    world.restart("operator")

    await_nothing_left(world, "counter", uid)


def test_a_deletion_that_waits_for_an_agent_outlives_its_operator(world: World) -> None:
    world.apply("counter")
    world.await_running("counter", node="node-a")
    uid = uid_of(world, "counter")

    world.kill("agent:node-a")
    world.delete("counter")
    world.until(
        lambda: condition(world.status("counter"), "Reconciling")["reason"] == "Deleting",
        "the operator has seen that it is to be deleted",
    )
    world.kill("operator")
    world.restart("operator")
    world.apply("other", node="node-b")  # by then the new operator has looked at both
    world.await_running("other", node="node-b")
    assert held(world, "placement", "counter")
    assert world.copies("counter")["node-a"] > 0
    world.restart("agent:node-a")

    await_nothing_left(world, "counter", uid)


def test_a_migration_deleted_while_no_operator_runs_is_cancelled_by_the_next_one(
    world: World,
) -> None:
    world.apply("counter", container={"env": BIG})
    world.await_running("counter", node="node-a")
    world.limit_rate(SLOW_LINK)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(
            lambda: any(
                m.get("status", {}).get("phase") == "Copying" for m in world.migrations("counter")
            ),
            "the memory is being copied",
        )
        [migration] = world.migrations("counter")
        name = migration["metadata"]["name"]
        world.kill("operator")
        world.kubectl("delete", "cmig", name, "--wait=false")
        assert held(world, "cmig", name)
        world.restart("operator")
        world.until(lambda: not world.migrations("counter"), "the migration is gone")
        world.until(
            lambda: condition(world.status("counter"), "Stalled")["reason"] == "MigrationCancelled",
            "the placement has noted the cancel",
        )
        world.goes_on(client)
    assert world.status("counter")["node"] == "node-a"
    world.await_one_copy("counter", node="node-a")
