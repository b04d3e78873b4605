"""Memory of every kind is moved without a change, and shared memory is still shared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_scene import goes_on, program, start
from world import World

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def _program(world: World) -> Iterator[None]:
    with program(world):
        yield


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
