"""A container that verifies its memory all the time (subjects/memories.py), and its output."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from world import World

from transship.lab.images.sample_images import push_sample_image

PROGRAM = Path(__file__).parent / "subjects" / "memories.py"
PRIVATE = {"private", "huge", "copied file", "hugetlb"}
ALL_USUAL = frozenset(
    {"private", "huge", "threads", "copied file", "shared", "memfd", "memfd unmapped", "System V",
     "/dev/shm", "/dev/shm unnamed", "tmpfs", "file", "file unnamed"}
)  # fmt: skip
WRITERS = 2
ROUNDS = 3
LINE = re.compile(r"^(.+)/(\d) whole (\d+) other (\d+)$", re.MULTILINE)


@contextmanager
def program(world: World) -> Iterator[None]:
    """Make the program available to the containers of `start`."""
    push_sample_image(world.registry, "programs")
    world.kubectl("create", "configmap", "memories", f"--from-file={PROGRAM}")
    try:
        yield
    finally:
        world.kubectl("delete", "configmap", "memories")


def start(world: World, name: str, strategy: str, *kinds: str) -> None:
    """Start it on node-a, with these kinds of memory; by default with all usual ones."""
    world.apply(
        name,
        container={
            "image": world.image("programs"),
            "command": ["python3", "/program/memories.py", "/disk", "/tmpfs", *kinds],
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
    """Return the last round that each writer verified, and the one it saw of the other."""
    log = world.logs(name)
    assert "broken" not in log, [line for line in log.splitlines() if "broken" in line]
    assert "Traceback" not in log, log[-2000:]
    return {
        (kind, writer): (int(own), int(other)) for kind, writer, own, other in LINE.findall(log)
    }


def goes_on(world: World, name: str, kinds: Collection[str] = ALL_USUAL) -> None:
    """Wait until every writer has verified its memory, and has seen the other go on if shared."""
    before = rounds(world, name)

    def gone_on() -> bool:
        now = rounds(world, name)
        return (
            {kind for kind, _ in now} == set(kinds)
            and len(now) == WRITERS * len(kinds)
            and all(
                own >= before.get(writer, (0, 0))[0] + ROUNDS
                and (writer[0] in PRIVATE or other > before.get(writer, (0, 0))[1])
                for writer, (own, other) in now.items()
            )
        )

    world.until(gone_on, "all writers verify their memory")
