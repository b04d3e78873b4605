"""A node is lost, an administrator says so, and its containers begin anew elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from world import World, condition

pytestmark = pytest.mark.lab

TAINT = "node.kubernetes.io/out-of-service"


@pytest.fixture(autouse=True)
def _node(world: World) -> Iterator[None]:
    """Whatever a test left: node-a runs, and nothing says anything else of it."""
    yield
    world.heal()
    world.kubectl("delete", "node", "node-a", "--ignore-not-found")
    world.restart("node:node-a")
    world.until(lambda: ready(world, "node-a"), "node-a is back")


def ready(world: World, node: str) -> bool:
    agents = {agent["metadata"]["name"]: agent for agent in world.resources("nodeagent")}
    return node in agents and condition(agents[node].get("status", {}), "Ready")["status"] == "True"


def declare_out_of_service(world: World, node: str) -> None:
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
    world.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    world.kubectl("taint", "node", node, f"{TAINT}=nodeshutdown:NoExecute")


def await_lost(world: World, name: str) -> None:
    world.until(
        lambda: condition(world.status(name), "Reconciling")["reason"] == "NodeLost",
        "its node is lost",
    )
    message = condition(world.status(name), "Reconciling")["message"]
    assert TAINT in message
    assert "NodeAgent" in message


def test_a_tainted_node_that_is_off_gives_its_container_up(world: World) -> None:
    world.apply("counter")
    world.await_running("counter", node="node-a")
    world.kill("node:node-a")
    await_lost(world, "counter")
    world.move("counter", "node-b")
    declare_out_of_service(world, "node-a")
    status = world.await_running("counter", node="node-b")
    assert status["epoch"] == 2
    world.kubectl("delete", "node", "node-a")
    world.restart("node:node-a")
    world.until(lambda: ready(world, "node-a"), "node-a is back")
    world.await_one_copy("counter", node="node-b")
    uid = world.get("placement", "counter")["metadata"]["uid"]
    world.until(lambda: "node-a" not in world.leftovers(uid), "node-a has nothing of it any more")


def test_a_deleted_node_agent_gives_its_container_up(world: World) -> None:
    world.apply("counter", node=None)
    world.until(lambda: world.status("counter").get("phase") == "Running", "it runs somewhere")
    world.move("counter", "node-a")
    world.await_running("counter", node="node-a")
    world.patch("counter", {"targetNode": None})
    world.kill("node:node-a")
    await_lost(world, "counter")
    world.kubectl("delete", "nodeagent", "node-a")
    world.until(
        lambda: (
            world.status("counter").get("node") in {"node-b", "node-c"}
            and world.status("counter").get("phase") == "Running"
        ),
        "it runs on another node",
        seconds=150,
    )


def test_a_node_that_ran_on_all_the_while_destroys_its_copy_when_it_is_heard_again(
    world: World,
) -> None:
    """The administrator was wrong; the copy that nobody could reach does not stay."""
    world.apply("counter")
    world.await_running("counter", node="node-a")
    world.partition("node-a", "operator")
    await_lost(world, "counter")
    world.move("counter", "node-b")
    declare_out_of_service(world, "node-a")
    world.await_running("counter", node="node-b")
    assert world.copies("counter")["node-a"] > 0
    world.heal()
    world.await_one_copy("counter", node="node-b")
    assert world.status("counter")["epoch"] == 2
