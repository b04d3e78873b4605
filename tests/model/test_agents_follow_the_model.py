"""The real roles, with faults at many moments, are never seen where the model has no state."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.agent_pair import Disk, Node, Pair
from fakes.agent_world import State
from fakes.orders import ID
from model.explorer import THERE, Bounds, Explorer
from model.scene import Scene
from model.world import Copy, World
from transship.agent.journal.record import Record

COPIES = {State.RUNNING: Copy.RUNNING, State.FROZEN: Copy.FROZEN, State.HELD: Copy.HELD}
Place = tuple[str, int]
Joint = tuple[Place, Place]
MOMENTS_MILLISECONDS = range(0, 280, 20)


@pytest.fixture(scope="module")
def possible() -> set[Joint]:
    explorer = Explorer(Bounds((THERE,), power_fails=False))
    assert explorer.explore() is None
    return {joint(explorer.scene, world) for world in explorer.worlds}


def joint(scene: Scene, world: World) -> Joint:
    a, b = world.nodes
    return (
        (named(scene.ledger.maybe(a.disk)), a.copy),
        (named(scene.ledger.maybe(b.disk)), b.copy),
    )


def named(record: Record | None) -> str:
    if record is None:
        return "none"
    moving = ", in a move" if record.migration is not None else ""
    return f"{record.state}({record.epoch}){moving}"


def joint_state(pair: Pair) -> Joint:
    def place(node: Node) -> Place:
        copy = pair.world.copies.get(node.name)
        return named(node.on_disk()), Copy.ABSENT if copy is None else COPIES[copy.state]

    return place(pair.a), place(pair.b)


def watched(pair: Pair, *, milliseconds: int) -> set[Joint]:
    found = set()
    for _ in range(milliseconds):
        pair.loop.pass_time(0.001)
        found.add(joint_state(pair))
    return found


def moved(pair: Pair) -> None:
    pair.prepare()
    pair.begin()


def test_an_undisturbed_move(tmp_path: Path, possible: set[Joint]) -> None:
    with Pair(tmp_path) as pair:
        moved(pair)
        states = watched(pair, milliseconds=400)
    assert states <= possible
    assert len(states) >= 7  # from Running and Incoming to Released and Running


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("fault", ["kill", "full", "lies", "abort", "reply"])
def test_a_disturbed_move(tmp_path: Path, possible: set[Joint], victim: str, fault: str) -> None:
    states = set()
    for moment in MOMENTS_MILLISECONDS:
        folder = tmp_path / str(moment)
        folder.mkdir()
        with Pair(folder) as pair:
            moved(pair)
            states |= watched(pair, milliseconds=moment)
            disturb(pair, getattr(pair, victim), fault)
            states |= watched(pair, milliseconds=40)
            pair.settle()
            states |= {joint_state(pair)}
            pair.assert_settled()
    assert states <= possible, states - possible


def disturb(pair: Pair, node: Node, fault: str) -> None:
    match fault:
        case "kill":
            node.restart()
        case "full":
            node.live.journal.disk = Disk.FULL
        case "lies":
            node.live.journal.disk = Disk.LIES
        case "reply":
            pair.network.lost_replies += ["restore", "decide"]
        case "abort" if node is pair.a:
            pair.background(node.live.serve(node.live.source.abort("m-1", container=ID)))
        case _:
            pair.background(node.live.serve(node.live.target.abort("m-1")))
