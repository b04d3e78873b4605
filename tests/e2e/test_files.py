"""Files arrive as they were: of every kind, open and without a name, and while they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import file_trees
import pytest
from world import World

from transship.common.processes import run_blocking
from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.state import lab_dir

pytestmark = pytest.mark.lab

PYTHON = "/opt/transship/bin/python"
VOLUME: dict[str, Any] = {
    "volumes": [{"name": "data", "emptyDir": {}}],
    "container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
}


def container(**more: Any) -> dict[str, Any]:
    return {**VOLUME, "container": {**VOLUME["container"], **more}}


def root(world: World, name: str) -> tuple[str, str]:
    """The node that has the container, and its / there."""
    node = world.status(name)["node"]
    uid = world.get("placement", name)["metadata"]["uid"]
    pid = world.processes(node, uid)[0].split("/")[2]
    return node, f"/proc/{pid}/root"


def scene(world: World, name: str, task: str) -> str:
    node, path = root(world, name)
    words = [*enter_words(lab_dir(world.lab.name), node), PYTHON, "-", task, path]
    source = Path(file_trees.__file__).read_bytes()
    return run_blocking(words, stdin=source, timeout_seconds=120).stdout


def file_states(world: World, name: str) -> dict[str, list[Any]]:
    """The first name of a hard link begins with the container's root, which names a process."""
    states: dict[str, list[Any]] = json.loads(scene(world, name, "report"))
    return {
        path: [part.partition("/root/")[2] if isinstance(part, str) and "/root/" in part else part
               for part in state]
        for path, state in states.items()
    }  # fmt: skip


def differences(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> dict[str, Any]:
    paths = sorted({*before, *after})
    return {p: (before.get(p), after.get(p)) for p in paths if before.get(p) != after.get(p)}


def test_files_of_every_kind_arrive_as_they_were(world: World) -> None:
    world.apply("files", **container(resources={"limits": {"memory": "128Mi"}}))
    world.await_running("files", node="node-a")
    scene(world, "files", "make")
    before = file_states(world, "files")
    for node in ("node-b", "node-a"):
        world.move("files", node)
        world.await_running("files", node=node)
        assert differences(before, file_states(world, "files")) == {}
    assert len(before) > 40
    assert "etc/issue.net" not in before


def test_a_file_that_is_open_and_has_no_name_any_more_keeps_what_is_in_it(world: World) -> None:
    script = "echo kept >/data/gone; exec 9<>/data/gone; rm /data/gone; exec /usr/local/bin/counter"
    world.apply("unnamed", **container(command=["sh", "-c", script]))
    world.await_running("unnamed", node="node-a")
    for node in ("node-b", "node-a"):
        world.move("unnamed", node)
        world.await_running("unnamed", node=node)
        _, path = root(world, "unnamed")
        process = path.removesuffix("/root")
        assert "(deleted)" in world.on_node(node, "readlink", f"{process}/fd/9")
        assert world.on_node(node, "cat", f"{process}/fd/9") == "kept\n"
        assert world.on_node(node, "ls", "-A", f"{path}/data") == ""
