"""What cannot move is said before anything is frozen, with its culprit; what moves is let through.

The containers of the table run at the same time, and their moves are asked for together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hindered import HINDERED, MOVABLE, QUEUE, Hindered, python
from world import World, condition

from transship.lab.sample_images import push_sample_image
from transship.lab.state import LabState

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", autouse=True)
def _image(lab: LabState, _session_world: World) -> Iterator[None]:
    push_sample_image(lab.registry, "programs")
    with _session_world.privileged():
        yield


@pytest.fixture(scope="module")
def hindered(_session_world: World, _image: None) -> Iterator[World]:
    """All containers of the table, asked to move and not moved."""
    world = _session_world
    for each in HINDERED:
        world.apply(each.name, container=each.container(world.image("programs")))
    for each in HINDERED:
        world.await_running(each.name, node="node-a")
        await_migratable(world, each.name, "False")
    for each in HINDERED:
        world.move(each.name, "node-b")
    yield world
    world.clear()


@pytest.mark.parametrize("case", HINDERED, ids=lambda case: case.name)
def test_it_is_refused_by_name_before_the_freeze(hindered: World, case: Hindered) -> None:
    world, name = hindered, case.name
    world.until(lambda: bool(ended(world, name)), "the move is refused")
    [migration, *_] = ended(world, name)
    status = migration["status"]
    assert status["phase"] == "Failed"
    assert status["reason"] == case.reason.value
    assert case.message in status["message"]
    assert status["hint"] == case.reason.hint
    assert status.get("blackoutMilliseconds") is None
    assert "Freeze" not in [step["name"] for step in status.get("steps", [])]

    migratable = condition(world.status(name), "Migratable")
    assert migratable["status"] == "False"
    assert migratable["reason"] == case.reason.value
    assert case.message in migratable["message"]


def test_the_move_waits_for_the_cause_to_go_and_is_made_then(world: World) -> None:
    code = f"""
{QUEUE}
def remove():
    while not os.path.exists("/tmp/remove"):
        time.sleep(0.1)
    os.close(queue)
    call(241, b"jobs")
threading.Thread(target=remove).start()
"""
    world.apply("queue", container=python(world.image("programs"), code))
    world.await_running("queue", node="node-a")
    await_migratable(world, "queue", "False")
    world.move("queue", "node-b")
    world.until(
        lambda: "waits" in condition(world.status("queue"), "Reconciling")["message"],
        "the placement says that the move waits",
    )
    tries = len(ended(world, "queue"))
    world.on_node("node-a", "touch", f"{root(world, 'queue')}/tmp/remove")
    await_migratable(world, "queue", "True")
    world.await_running("queue", node="node-b")
    assert len(world.migrations("queue")) == tries + 1


def test_a_connection_to_the_node_hinders_for_as_long_as_it_lasts(world: World) -> None:
    folder = "/srv/outside"
    for node in ("node-a", "node-b"):
        world.on_node(node, "mkdir", "-p", folder)
    listen = f"setsid socat UNIX-LISTEN:{folder}/socket PIPE >/dev/null 2>&1 & echo $!"
    server = world.on_node("node-a", "sh", "-c", listen).strip()
    world.on_node("node-a", "sh", "-c", f"until test -S {folder}/socket; do sleep 0.05; done")
    code = 'kept = socket.socket(socket.AF_UNIX); kept.connect("/outside/socket")'
    container = python(world.image("programs"), code)
    world.apply(
        "connected",
        container={**container, "volumeMounts": [{"name": "node", "mountPath": "/outside"}]},
        volumes=[{"name": "node", "hostPath": {"path": folder}}],
    )
    world.await_running("connected", node="node-a")
    await_migratable(world, "connected", "False")
    assert condition(world.status("connected"), "Migratable")["reason"] == "ExternalConnection"
    world.on_node("node-a", "sh", "-c", f"kill {server}")
    await_migratable(world, "connected", "True")
    world.move("connected", "node-b")
    world.await_running("connected", node="node-b")


def test_a_cold_move_asks_nothing_of_the_processes(world: World) -> None:
    container = python(world.image("programs"), QUEUE)
    world.apply("queue", container=container, migration={"strategy": "Cold"})
    world.await_running("queue", node="node-a")
    world.move("queue", "node-b")
    world.await_running("queue", node="node-b")
    assert world.status("queue")["lastMigration"]["strategy"] == "Cold"


def test_what_criu_can_dump_is_not_refused(world: World) -> None:
    world.apply("all", container=python(world.image("programs"), MOVABLE))
    world.await_running("all", node="node-a")
    world.until(
        lambda: "ready" in world.on_node("node-a", "cat", log(world, "all")), "it has everything"
    )
    world.move("all", "node-b")
    world.await_running("all", node="node-b")
    [migration] = world.migrations("all")
    assert migration["status"]["phase"] == "Succeeded"
    world.await_one_copy("all", node="node-b")


def await_migratable(world: World, name: str, status: str) -> None:
    world.until(
        lambda: condition(world.status(name), "Migratable")["status"] == status,
        f"{name}: Migratable is {status}",
    )


def ended(world: World, name: str) -> list[dict[str, Any]]:
    """Its migrations that are over."""
    return [
        each
        for each in world.migrations(name)
        if condition(each.get("status", {}), "Succeeded")["status"] in {"True", "False"}
    ]


def root(world: World, name: str) -> str:
    uid = world.get("placement", name)["metadata"]["uid"]
    return f"/proc/{world.processes('node-a', uid)[0].split('/')[2]}/root"


def log(world: World, name: str) -> str:
    uid = world.get("placement", name)["metadata"]["uid"]
    return f"/var/lib/transship/containers/{uid}/container.log"
