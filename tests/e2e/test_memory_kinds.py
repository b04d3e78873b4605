"""Memory of every kind arrives bit for bit, and what was shared still is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import World

from transship.lab.sample_images import push_sample_image
from transship.lab.state import LabState

pytestmark = pytest.mark.lab

PROGRAM = Path(__file__).parent / "subjects" / "memories.py"
KINDS = 13
SHARED = {
    "threads", "shared", "memfd", "memfd unmapped", "System V", "/dev/shm", "/dev/shm unnamed",
    "tmpfs", "file", "file unnamed",
}  # fmt: skip
ROUNDS = 3
WORD = re.compile(r" F (.+)/(\d) whole (\d+) other (\d+)$", re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def _image(lab: LabState) -> None:
    push_sample_image(lab.registry, "programs")


@pytest.fixture(autouse=True)
def _program(world: World) -> Iterator[None]:
    world.kubectl("create", "configmap", "memories", f"--from-file={PROGRAM}")
    yield
    world.kubectl("delete", "configmap", "memories")


def start(world: World, name: str, strategy: str) -> None:
    world.apply(
        name,
        container={
            "image": world.image("programs"),
            "command": ["python3", "/program/memories.py", "/disk", "/tmpfs"],
            "terminationGracePeriodSeconds": 1,
            "volumeMounts": [
                {"name": "program", "mountPath": "/program"},
                {"name": "disk", "mountPath": "/disk"},
                {"name": "tmpfs", "mountPath": "/tmpfs"},
            ],
        },
        volumes=[
            {"name": "program", "configMap": {"name": "memories"}},
            {"name": "disk", "emptyDir": {}},
            {"name": "tmpfs", "emptyDir": {"medium": "Memory"}},
        ],
        migration={"strategy": strategy},
    )
    world.await_running(name, node="node-a")


def rounds(world: World, name: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Of each writer, the last that it proved, and its fellow's as it saw it."""
    said = world.output(name)
    assert "broken" not in said, [line for line in said.splitlines() if "broken" in line]
    assert "Traceback" not in said, said[-2000:]
    return {
        (kind, writer): (int(own), int(other)) for kind, writer, own, other in WORD.findall(said)
    }


def goes_on(world: World, name: str) -> None:
    """Every writer proves all of its memory again, and sees its fellow go on."""
    before = rounds(world, name)

    def gone_on() -> bool:
        now = rounds(world, name)
        return len(now) == 2 * KINDS and all(
            own >= before.get(writer, (0, 0))[0] + ROUNDS
            and (writer[0] not in SHARED or other > before.get(writer, (0, 0))[1])
            for writer, (own, other) in now.items()
        )

    world.until(gone_on, "all writers prove their memory")


@pytest.mark.parametrize("strategy", ["PreCopy", "StopAndCopy", "PostCopy"])
def test_memory_of_every_kind_is_whole_after_each_move(world: World, strategy: str) -> None:
    name = f"memories-{strategy.lower()}"
    start(world, name, strategy)
    goes_on(world, name)
    for node in ("node-b", "node-a", "node-b"):
        world.move(name, node)
        world.await_running(name, node=node)
        goes_on(world, name)
    moves = [m["status"] for m in world.migrations(name)]
    assert [(m["phase"], m["strategy"]) for m in moves] == [("Succeeded", strategy)] * 3, moves
