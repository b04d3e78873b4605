"""Post-copy moves, and faults while the memory follows the container."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from world import World, condition

pytestmark = pytest.mark.lab

ENV = [{"name": "MEMORY_MIB", "value": "192"}, {"name": "DIRTY_MIB_PER_SECOND", "value": "5"}]
SLOW = "200mbit"
"""192 MiB take 8 s: enough time to inject a fault."""


def start(world: World) -> None:
    world.apply("counter", container={"env": ENV}, migration={"strategy": "PostCopy"})
    world.await_running("counter", node="node-a")


def phase(world: World) -> str:
    moves = world.migrations("counter")
    return str(moves[-1].get("status", {}).get("phase", "")) if moves else ""


def drains(world: World) -> bool:
    return phase(world) == "Draining"


def test_the_memory_follows_and_the_connection_goes_on(world: World) -> None:
    start(world)
    with world.client("counter") as client:
        world.goes_on(client)
        world.move("counter", "node-b")
        world.await_running("counter", node="node-b")
        world.goes_on(client)
        [migration] = world.migrations("counter")
        status = migration["status"]
        assert status["strategy"] == "PostCopy"
        assert status["phase"] == "Succeeded"
        assert "Drain" in [step["name"] for step in status["steps"]]
        assert status["memory"]["pageBytes"] >= 192 << 20  # what followed is told too
        world.await_one_copy("counter", node="node-b")
        world.move("counter", "node-a")  # back, with what has come
        world.await_running("counter", node="node-a")
        world.goes_on(client)


def migration_reason(world: World) -> str:
    [migration] = world.migrations("counter")
    return str(condition(migration["status"], "Succeeded")["reason"])


def cut_off(world: World) -> None:
    world.partition("node-a", "node-b")

    world.until(lambda: migration_reason(world) == "AwaitingMemory", "it waits for its memory")
    assert phase(world) == "Draining"
    world.heal()
    world.limit_rate(SLOW)


def restart_source(world: World) -> None:
    world.kill("agent:node-a")

    world.until(lambda: migration_reason(world) == "MemoryUnreachable", "its source is missing")
    world.restart("agent:node-a")


def restart_target(world: World) -> None:
    world.kill("agent:node-b")
    world.restart("agent:node-b")


def kill_server(world: World) -> None:
    """Kill the younger of the page server's two processes: the guard is the older one."""
    script = "grep -la memory.page_server.proces[s] /proc/[0-9]*/cmdline"
    found = [
        int(line.split("/")[2]) for line in world.on_node("node-b", "sh", "-c", script).split()
    ]
    _guard, server = sorted(found)
    world.on_node("node-b", "sh", "-c", f"kill -9 {server}")


@pytest.mark.parametrize("breaks", [cut_off, restart_source, restart_target, kill_server])
def test_what_breaks_in_the_middle_of_it_costs_no_page(
    world: World, breaks: Callable[[World], None]
) -> None:
    start(world)
    world.limit_rate(SLOW)
    with world.client("counter") as client:
        world.goes_on(client)
        world.move("counter", "node-b")
        world.until(lambda: drains(world), "the memory follows")
        breaks(world)
        world.until(lambda: phase(world) == "Succeeded", "the memory has come")
        world.await_running("counter", node="node-b")
        world.goes_on(client)
    world.await_one_copy("counter", node="node-b")


def source_comes_back(world: World) -> None:
    """It boots without the frozen copy, which alone had the rest of the memory."""
    world.restart("node:node-a")


def source_is_given_up(world: World) -> None:
    """An administrator says that it will not come back."""
    world.kubectl("delete", "nodeagent", "node-a")


@pytest.mark.parametrize("ends", [source_comes_back, source_is_given_up])
def test_where_the_rest_is_lost_with_its_node_the_container_is_started_anew(
    world: World, ends: Callable[[World], None]
) -> None:
    start(world)
    world.limit_rate(SLOW)
    world.move("counter", "node-b")
    world.until(lambda: drains(world), "the memory follows")
    world.kill("node:node-a")
    try:
        ends(world)
        world.until(lambda: phase(world) == "Failed", "the migration says that it has failed")
        [migration] = world.migrations("counter")
        assert condition(migration["status"], "Succeeded")["reason"] == "ContainerLost"
        assert "node-a" in migration["status"]["message"]
        world.await_running("counter", node="node-b")
        with world.client("counter") as client:
            world.goes_on(client)
    finally:
        world.restart("node:node-a")
        world.until(lambda: is_ready(world, "node-a"), "the node is there again")
    world.await_one_copy("counter", node="node-b")


def is_ready(world: World, node: str) -> bool:
    found = [each for each in world.resources("nodeagent") if each["metadata"]["name"] == node]
    return bool(found) and condition(found[0].get("status", {}), "Ready")["status"] == "True"
