"""CRIU, runc or rsync is killed or hangs in a move: the container keeps running at the source."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator

import pytest
from world import World

from transship.lab.nodes.namespace_nodes import enter_words
from transship.lab.proof import failpoints
from transship.lab.state import lab_dir

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

REACH_SECONDS = 60.0
HUNT_TRIES = 20_000  # looks at all processes; a node has few
EACH = (
    "for p in /proc/[0-9]*; do read -r c 2>/dev/null < $p/comm || continue; "
    "case $c in {names}) ;; *) continue ;; esac;"
)
WHEN_CAUGHT_SECONDS = 60.0  # a hung CRIU is waited for as long as one may take


@pytest.fixture
def prepared(world: World) -> Iterator[World]:
    directory = lab_dir(world.lab.name)
    world.apply("counter", migration={"backoffLimit": 0, "deadlineSeconds": 60})
    world.await_running("counter", node="node-a")
    yield world
    for node in ("node-a", "node-b"):
        failpoints.disarm(directory, node)


def caught(world: World, node: str, place: str, program: str, *, number: signal.Signals) -> None:
    """Signal the first such program after the move has reached the failpoint."""
    directory = lab_dir(world.lab.name)
    failpoints.arm(directory, node, place)
    world.move("counter", "node-b")
    failpoints.await_reached(directory, node, place, timeout_seconds=REACH_SECONDS)
    hunt = (
        f"echo ready; i=0; while [ $i -lt {HUNT_TRIES} ]; do {EACH.format(names=program)} "
        f"kill -{number.value} ${{p#/proc/}} && echo caught && exit; done; i=$((i+1)); done"
    )
    words = [*map(str, enter_words(directory, node)), "sh", "-c", hunt]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as hunter:
        assert hunter.stdout is not None
        assert hunter.stdout.readline() == "ready\n"
        failpoints.disarm(directory, node)
        assert hunter.stdout.read() == "caught\n", f"no {program} on {node}"


def assert_it_stayed(world: World) -> None:
    """One copy runs, at the source; the move failed with a reason; the target has nothing."""

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
    script = f"{EACH.format(names='criu|runc|rsync')} echo $p $c; done; true"
    return world.on_node(node, "sh", "-c", script)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_criu_in_its_dump(prepared: World, number: signal.Signals) -> None:
    caught(prepared, "node-a", "Dump.begin", "criu", number=number)
    assert_it_stayed(prepared)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_criu_in_its_restore(prepared: World, number: signal.Signals) -> None:
    caught(prepared, "node-b", "Restore.begin", "criu", number=number)
    assert_it_stayed(prepared)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_runc_in_its_restore(prepared: World, number: signal.Signals) -> None:
    caught(prepared, "node-b", "Restore.begin", "runc", number=number)
    assert_it_stayed(prepared)


def test_rsync_in_the_copy_of_files(prepared: World) -> None:
    caught(prepared, "node-a", "CopyFiles.begin", "rsync", number=signal.SIGSTOP)
    assert_it_stayed(prepared)
