"""Real programs move under load: every acknowledged operation is still there, on the connections
of before. Each is a row of docs/compatibility.md.
"""

from __future__ import annotations

import contextlib

import pytest
from programs import PROGRAMS, Load, Program
from world import World

from transship.lab.images.sample_images import push_sample_image
from transship.lab.state import LabState

pytestmark = pytest.mark.lab

CLIENTS = 3
OPERATIONS = 20


@pytest.fixture(scope="module", autouse=True)
def _image(lab: LabState) -> None:
    push_sample_image(str(lab.registry), "programs")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_moved_three_times_it_forgets_nothing_that_it_acknowledged(
    world: World, program: Program
) -> None:
    name = program.name
    world.apply(name, container=program.placed(world.image(program.image)))
    address = world.await_running(name, node="node-a")["address"]
    with contextlib.ExitStack() as clients:
        loads = [
            clients.enter_context(program.load(address, number=n)) for n in range(1, 1 + CLIENTS)
        ]
        goes_on(world, loads, name)
        for node in ("node-b", "node-a", "node-b"):
            world.move(name, node)
            world.await_running(name, node=node)
            goes_on(world, loads, name)
    assert [load.error for load in loads] == [""] * CLIENTS, world.output(name)[-3000:]
    assert [load.missing for load in loads] == [[]] * CLIENTS
    assert world.status(name)["epoch"] == 4
    assert world.status(name)["container"].get("restarts", 0) == 0


def goes_on(world: World, loads: list[Load], name: str) -> None:
    """Every connection makes progress."""
    before = [load.acknowledged for load in loads]

    def further() -> bool:
        errors = [load.error for load in loads]
        assert not any(errors), (errors, world.output(name)[-3000:])
        return all(
            load.acknowledged >= count + OPERATIONS
            for load, count in zip(loads, before, strict=True)
        )

    world.until(further, "every client's connection goes on")
