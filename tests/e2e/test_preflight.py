"""A container that cannot move is refused before the freeze, with the cause; others move.

The containers of the table run at the same time, and their moves are asked for together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from unmovable import MOVABLE, QUEUE, UNMOVABLE, Unmovable, python
from world import World, condition

from transship.lab.images.sample_images import push_sample_image
from transship.lab.state import LabState

pytestmark = pytest.mark.lab


# What an older agent has left: a record that does not know of the refusal.
FORGET = """
import pathlib, sys
from transship.agent.journal.record import decode, encode
for path in pathlib.Path("/var/lib/transship/journal").iterdir():
    if sys.argv[1] in path.name:
        record = decode(path.read_bytes(), container=sys.argv[1], node="node-a")
        old = record.but(refuses_landlock=False)
        path.write_bytes(encode(old, node="node-a"))
"""


@pytest.fixture(scope="module", autouse=True)
def _image(lab: LabState, _session_world: World) -> Iterator[None]:
    push_sample_image(str(lab.registry), "programs")
    with _session_world.privileged():
        yield


@pytest.fixture(scope="module")
def unmovable(_session_world: World, _image: None) -> Iterator[World]:
    """The containers of the table, with a move ordered for each."""
    world = _session_world
    for case in UNMOVABLE:
        world.apply(case.name, container=case.container(world.image("programs")))
    for case in UNMOVABLE:
        world.await_running(case.name, node="node-a")
        await_migratable(world, case.name, "False")
    for case in UNMOVABLE:
        world.move(case.name, "node-b")
    yield world
    world.clear()


@pytest.mark.parametrize("case", UNMOVABLE, ids=lambda case: case.name)
def test_it_is_refused_by_name_before_the_freeze(unmovable: World, case: Unmovable) -> None:
    world, name = unmovable, case.name
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


DELETED = """
block = os.urandom(1 << 20)
files = []
for number in range({count}):
    files.append(open(f"/tmp/{{number}}", "w+b")); os.unlink(f"/tmp/{{number}}")
    for _ in range(100):
        files[-1].write(block)
    files[-1].flush()
def answer():
    while not os.path.exists("/tmp/close"):
        time.sleep(0.1)
    for file in files:
        file.seek(0)
        whole = all(file.read(1 << 20) == block for _ in range(100))
        print("whole" if whole else "torn", flush=True)
        file.close()
threading.Thread(target=answer).start()
"""


def test_files_that_are_together_too_large_are_refused_until_they_are_closed(world: World) -> None:
    container = python(world.image("programs"), DELETED.format(count=3))
    world.apply("deleted", container=container)
    world.await_running("deleted", node="node-a")
    await_migratable(world, "deleted", "False")
    migratable = condition(world.status("deleted"), "Migratable")
    assert migratable["reason"] == "StateTooLarge"
    for words in ("300 MiB in deleted files", "the limit is 256 MiB", "/tmp/0", "/tmp/2"):
        assert words in migratable["message"]

    world.move("deleted", "node-b")
    world.until(
        lambda: "waits" in condition(world.status("deleted"), "Reconciling")["message"],
        "the placement says that the move waits",
    )
    [first, *more] = [migration["status"] for migration in world.migrations("deleted")]
    assert more == []
    assert (first["phase"], first["reason"]) == ("Failed", "StateTooLarge")
    assert "300 MiB down to 256 MiB" in first["hint"]
    assert "Freeze" not in [step["name"] for step in first.get("steps", [])]

    world.on_node("node-a", "touch", f"{root(world, 'deleted')}/tmp/close")
    await_migratable(world, "deleted", "True")
    world.await_running("deleted", node="node-b")


def test_large_deleted_files_within_the_limit_arrive_whole(world: World) -> None:
    world.apply("deleted", container=python(world.image("programs"), DELETED.format(count=2)))
    world.await_running("deleted", node="node-a")
    world.until(lambda: "ready" in world.output("deleted"), "the files are written")
    world.move("deleted", "node-b")
    world.await_running("deleted", node="node-b")
    [migration] = world.migrations("deleted")
    assert migration["status"]["bytes"] > 200 << 20
    world.on_node("node-b", "touch", f"{root(world, 'deleted', node='node-b')}/tmp/close")
    world.until(lambda: world.output("deleted").count("whole") == 2, "both files are whole")


HEAP = """
heap = os.memfd_create("heap"); os.ftruncate(heap, 300 << 20)
block = os.urandom(1 << 20)
first, second = mmap.mmap(heap, 300 << 20), mmap.mmap(heap, 300 << 20)
for number in range(300):
    first[number << 20:(number + 1) << 20] = block
def answer():
    while not os.path.exists("/tmp/check"):
        time.sleep(0.1)
    pieces = (second[number << 20:(number + 1) << 20] for number in range(300))
    whole = all(piece == block for piece in pieces)
    print("whole" if whole else "torn", flush=True)
threading.Thread(target=answer).start()
"""


def test_shared_memory_hinders_only_where_it_is_not_copied_ahead(world: World) -> None:
    container = python(world.image("programs"), HEAP)
    world.apply("heap", container=container, migration={"strategy": "StopAndCopy"})
    world.await_running("heap", node="node-a")
    await_migratable(world, "heap", "False")
    migratable = condition(world.status("heap"), "Migratable")
    assert migratable["reason"] == "StateTooLarge"
    assert "another strategy than StopAndCopy" in migratable["message"]
    world.patch("heap", {"migration": {"strategy": "Auto"}})
    await_migratable(world, "heap", "True")
    world.until(lambda: "ready" in world.output("heap"), "the memory is written")
    world.move("heap", "node-b")
    world.await_running("heap", node="node-b")
    world.on_node("node-b", "touch", f"{root(world, 'heap', node='node-b')}/tmp/check")
    world.until(lambda: "whole" in world.output("heap"), "the memory is whole")


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
    await_landlock_is_refused(world, "all", node="node-a")
    world.move("all", "node-b")
    world.await_running("all", node="node-b")
    [migration] = world.migrations("all")
    assert migration["status"]["phase"] == "Succeeded"
    world.await_one_copy("all", node="node-b")
    await_landlock_is_refused(world, "all", node="node-b")


def test_what_an_older_agent_started_moves_live_after_a_restart_only(world: World) -> None:
    world.apply("old", container=python(world.image("programs"), "pass"))
    world.await_running("old", node="node-a")
    uid = world.get("placement", "old")["metadata"]["uid"]
    world.kill("agent:node-a")
    world.on_node("node-a", "/opt/transship/bin/python", "-c", FORGET, uid)
    world.restart("agent:node-a")
    await_migratable(world, "old", "False")
    assert condition(world.status("old"), "Migratable")["reason"] == "LandlockNotRefused"
    world.move("old", "node-b")
    world.until(lambda: bool(ended(world, "old")), "the move is refused")
    assert ended(world, "old")[0]["status"]["reason"] == "LandlockNotRefused"
    world.patch("old", {"state": "Stopped"})
    world.until(lambda: world.status("old")["phase"] == "Stopped", "it has stopped")
    world.patch("old", {"state": "Running"})
    world.await_running("old", node="node-b")


def await_migratable(world: World, name: str, status: str) -> None:
    world.until(
        lambda: condition(world.status(name), "Migratable")["status"] == status,
        f"{name}: Migratable is {status}",
    )


def ended(world: World, name: str) -> list[dict[str, Any]]:
    """Its migrations that are over."""
    return [
        migration
        for migration in world.migrations(name)
        if condition(migration.get("status", {}), "Succeeded")["status"] in {"True", "False"}
    ]


def await_landlock_is_refused(world: World, name: str, *, node: str) -> None:
    """Its process 1 tries to make a ruleset when it gets SIGUSR1."""
    uid = world.get("placement", name)["metadata"]["uid"]
    text = world.on_node(node, "cat", log(world, name))
    pid = world.processes(node, uid)[0].split("/")[2]
    world.on_node(node, "sh", "-c", f"kill -USR1 {pid}")
    world.until(
        lambda: (
            "landlock: -1 Function not implemented"
            in world.on_node(node, "cat", log(world, name)).removeprefix(text)
        ),
        f"landlock_create_ruleset says ENOSYS on {node}",
    )


def root(world: World, name: str, *, node: str = "node-a") -> str:
    uid = world.get("placement", name)["metadata"]["uid"]
    return f"/proc/{world.processes(node, uid)[0].split('/')[2]}/root"


def log(world: World, name: str) -> str:
    uid = world.get("placement", name)["metadata"]["uid"]
    return f"/var/lib/transship/containers/{uid}/container.log"
