"""Moves that are edited, deleted or disturbed under way, and what is left of them."""

from __future__ import annotations

import pytest
from world import World, condition

pytestmark = pytest.mark.lab

BIG = [{"name": "MEMORY_MIB", "value": "512"}, {"name": "DIRTY_MIB_PER_SECOND", "value": "20"}]


def start(world: World, name: str = "counter") -> None:
    world.apply(name, container={"env": BIG})
    world.await_running(name, node="node-a")


def begun(world: World, name: str = "counter") -> bool:
    """A migration is under way."""
    return any(
        m.get("status", {}).get("phase") in {"Preparing", "Copying", "HandingOver"}
        for m in world.migrations(name)
    )


def test_editing_back_in_mid_migration_leaves_it_where_it_is(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the migration has begun")
        world.move("counter", "node-a")
        world.await_running("counter", node="node-a")
        world.goes_on(client)
    world.await_one_copy("counter", node="node-a")


def test_editing_on_to_a_third_node_ends_there(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the migration has begun")
        world.move("counter", "node-c")
        world.await_running("counter", node="node-c")
        world.goes_on(client)
    world.await_one_copy("counter", node="node-c")


def test_deleting_the_placement_in_mid_migration_leaves_nothing(world: World) -> None:
    start(world)
    uid = world.get("placement", "counter")["metadata"]["uid"]
    world.move("counter", "node-b")
    world.until(lambda: begun(world), "the migration has begun")
    world.delete("counter")
    world.await_gone("counter")
    world.until(lambda: not world.migrations("counter"), "its migrations are gone")
    world.until(lambda: world.leftovers(uid) == {}, "the nodes are clean")
    allocations = world.get("apool", "default").get("status", {}).get("allocations", [])
    assert uid not in [a["uid"] for a in allocations]


def test_deleting_a_running_migration_cancels_it(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the migration has begun")
        [migration] = world.migrations("counter")
        world.kubectl(
            "delete", "cmig", migration["metadata"]["name"], "--wait=true", "--timeout=60s"
        )
        world.goes_on(client)
    node = world.status("counter")["node"]
    assert node == "node-a"
    world.await_one_copy("counter", node=node)


def test_an_operator_killed_in_mid_migration_goes_on_where_it_was(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the migration has begun")
        world.kill("operator")
        world.restart("operator")
        world.await_running("counter", node="node-b")
        world.goes_on(client)
    world.await_one_copy("counter", node="node-b")


def test_an_agent_killed_while_its_container_runs_finds_it_again(world: World) -> None:
    world.apply("counter")
    started = world.await_running("counter", node="node-a")["container"]["startTime"]
    with world.client("counter") as client:
        world.goes_on(client)
        world.kill("agent:node-a")
        world.goes_on(client)
        world.restart("agent:node-a")
        world.move("counter", "node-b")
        world.await_running("counter", node="node-b")
        assert client.error == ""
    assert world.status("counter")["container"]["startTime"] == started


def test_a_target_that_fails_costs_a_stall_and_not_the_container(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the migration has begun")
        world.kill("node:node-b")
        world.goes_on(client)
        world.restart("node:node-b")
        world.await_running("counter", node="node-b")
        assert client.error == ""
    world.await_one_copy("counter", node="node-b")


def test_a_cut_between_the_agents_aborts_and_heals(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the migration has begun")
        world.partition("node-a", "node-b")
        world.goes_on(client)
        world.heal()
        world.await_running("counter", node="node-b")
        assert client.error == ""
    world.await_one_copy("counter", node="node-b")


def test_a_missing_node_is_waited_for_while_the_container_runs_on(world: World) -> None:
    world.apply("counter")
    world.await_running("counter", node="node-a")
    world.move("counter", "node-x")
    world.until(
        lambda: condition(world.status("counter"), "Reconciling")["reason"] == "NodeNotFound",
        "the condition names the missing node",
    )
    status = world.status("counter")
    assert condition(status, "Ready")["status"] == "True"
    assert "node-x" in condition(status, "Reconciling")["message"]
    world.move("counter", "node-a")
    world.await_running("counter", node="node-a")


def test_a_bad_image_says_so_and_can_be_deleted(world: World) -> None:
    world.apply("bad", container={"image": f"{world.lab.registry}/no-such-image:1"})
    world.until(
        lambda: condition(world.status("bad"), "Ready")["reason"] == "ImagePullFailed",
        "the condition names the image",
    )
    assert "no-such-image" in condition(world.status("bad"), "Ready")["message"]
    world.delete("bad")
    world.await_gone("bad")


def test_a_full_pool_says_so_and_serves_whoever_waits_when_an_address_comes_free(
    world: World,
) -> None:
    base = world.get("apool", "default")["spec"]["cidrs"][0].split("/")[0].rsplit(".", 2)[0]
    small = f"""
apiVersion: transship.dev/v1alpha1
kind: AddressPool
metadata: {{name: small}}
spec: {{cidr: {base}.250.0/30}}
"""
    world.kubectl("apply", "-f", "-", stdin=small)
    for name in ("one", "two", "three"):
        world.apply(name, network={"addressPool": "small"})
    world.await_running("one", node="node-a")
    world.until(
        lambda: "PoolExhausted" in [reason(world, n) for n in ("one", "two", "three")],
        "one of them waits for an address",
    )
    waiting = next(n for n in ("one", "two", "three") if reason(world, n) == "PoolExhausted")
    other = next(n for n in ("one", "two", "three") if n != waiting)
    world.delete(other)
    world.await_running(waiting, node="node-a")
    world.clear()
    world.kubectl("delete", "apool", "small")


def reason(world: World, name: str) -> str:
    status = world.status(name)
    problem = condition(status, "Reconciling")["reason"] or condition(status, "Stalled")["reason"]
    return str(problem or condition(status, "Ready")["reason"])


def test_a_targets_agent_killed_at_the_resume_costs_the_container_nothing(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: resumed(world), "the container runs at the target")
        world.kill("agent:node-b")
        world.goes_on(client, replies=200)
        world.restart("agent:node-b")
        world.await_running("counter", node="node-b")
        world.goes_on(client)
    world.await_one_copy("counter", node="node-b")


def resumed(world: World) -> bool:
    """The newest migration has the step Resume: the target has taken over."""
    steps = world.migrations("counter")[-1].get("status", {}).get("steps", []) or []
    return any(step["name"] == "Resume" for step in steps)
