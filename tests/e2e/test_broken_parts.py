"""CRIU and runc, killed or hung in mid-move: the container runs on at the source."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from world import World

from transship.common.errors import TransshipError
from transship.lab.proof import breakpoints
from transship.lab.state import lab_dir

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

REACH_SECONDS = 60.0
HUNT_SECONDS = 20.0
WHEN_CAUGHT_SECONDS = 60.0  # a hung CRIU is waited for as long as one may take


@pytest.fixture
def prepared(world: World) -> Iterator[World]:
    directory = lab_dir(world.lab.name)
    world.apply("counter", migration={"backoffLimit": 0})
    world.await_running("counter", node="node-a")
    yield world
    for node in ("node-a", "node-b"):
        breakpoints.disarm(directory, node)


def caught(world: World, node: str, place: str, program: str) -> Callable[[signal.Signals], None]:
    """Let the move come to a place, and hand over how to signal the program that works there."""
    directory = lab_dir(world.lab.name)
    breakpoints.arm(directory, node, place)
    world.move("counter", "node-b")
    breakpoints.await_reached(directory, node, place, timeout_seconds=REACH_SECONDS)

    def send(number: signal.Signals) -> None:
        breakpoints.disarm(directory, node)
        deadline = time.monotonic() + HUNT_SECONDS
        script = f"for p in $(pgrep -x {program}); do kill -{number.value} $p && echo $p; done"
        hit = ""
        while not hit and time.monotonic() < deadline:
            with suppress(TransshipError):
                hit = world.on_node(node, "sh", "-c", script).strip()
        assert hit, f"no {program} on {node}"

    return send


def assert_it_stayed(world: World) -> None:
    """One copy, at the source; the move has failed and says why; the target has nothing."""

    def failed() -> bool:
        return [m.get("status", {}).get("phase") for m in world.migrations("counter")] == ["Failed"]

    world.until(failed, "the move has failed", seconds=2 * WHEN_CAUGHT_SECONDS)
    [move] = world.migrations("counter")
    assert move["status"]["reason"]
    assert move["status"]["message"]
    world.await_one_copy("counter", node="node-a")
    with world.client("counter") as client:
        world.goes_on(client)
    uid = world.get("placement", "counter")["metadata"]["uid"]
    world.until(lambda: not remains(world, "node-b", uid), "the target is clean")
    world.until(lambda: not tools(world, "node-a"), "no tool is left on the source")
    assert not tools(world, "node-b")


def remains(world: World, node: str, uid: str) -> str:
    return world.leftovers(uid).get(node, "")


def tools(world: World, node: str) -> str:
    """CRIU, runc and rsync of a move; the agent's own self-test is long over."""
    return world.on_node(node, "sh", "-c", "pgrep -lx 'criu|runc|rsync' || true").strip()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_criu_in_its_dump(prepared: World, number: signal.Signals) -> None:
    caught(prepared, "node-a", "Dump.begin", "criu")(number)
    assert_it_stayed(prepared)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_criu_in_its_restore(prepared: World, number: signal.Signals) -> None:
    caught(prepared, "node-b", "Restore.begin", "criu")(number)
    assert_it_stayed(prepared)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_runc_in_its_restore(prepared: World, number: signal.Signals) -> None:
    caught(prepared, "node-b", "Restore.begin", "runc")(number)
    assert_it_stayed(prepared)


def test_rsync_in_the_copy_of_files(prepared: World) -> None:
    caught(prepared, "node-a", "CopyFiles.begin", "rsync")(signal.SIGSTOP)
    assert_it_stayed(prepared)
