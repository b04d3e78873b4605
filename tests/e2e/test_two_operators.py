"""Two operators with leader election: one acts, the other takes over, never both at once."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from world import World

from transship.common.errors import NotFound
from transship.controller.leader import LEASE_SECONDS
from transship.lab.daemons import daemon_alive, kill_daemon, signal_daemon
from transship.lab.nodes import namespace_nodes
from transship.lab.services import FILES, PYTHON
from transship.lab.state import OPERATOR, lab_dir

pytestmark = pytest.mark.lab

CANDIDATES = ("operator-1", "operator-2")


def holder(world: World) -> str:
    lease = world.kubectl(
        "get", "lease", "transship-operator", "-n", "transship-system", "--ignore-not-found",
        "-o", "jsonpath={.spec.holderIdentity}",
    )  # fmt: skip
    return lease.strip()


def leader(world: World) -> str:
    """The candidate that holds the lease."""
    world.until(lambda: holder(world) in CANDIDATES, "one of them leads")
    return holder(world)


def other(name: str) -> str:
    return CANDIDATES[1 - CANDIDATES.index(name)]


def begun(world: World) -> bool:
    return any(
        m.get("status", {}).get("phase") in {"Preparing", "Copying", "HandingOver"}
        for m in world.migrations("counter")
    )


@pytest.fixture
def candidates(world: World) -> Iterator[None]:
    """Replaces the lab's own operator, which runs without leader election."""
    directory = lab_dir(world.lab.name)
    world.kill("operator")
    world.kubectl("delete", "lease", "transship-operator", "-n", "transship-system",
                  "--ignore-not-found")  # fmt: skip
    for name in CANDIDATES:
        argv = [PYTHON, "-m", "transship.controller", *FILES.flags(), "--name", name]
        namespace_nodes.start_in_node(
            directory, world.lab, OPERATOR, name=name, argv=[*argv, "--leader-elect"]
        )
    yield
    for name in CANDIDATES:
        with suppress(NotFound):
            signal_daemon(directory, name, signal.SIGCONT)
        kill_daemon(directory, name)
    world.restart("operator")


def test_one_acts_and_the_other_takes_over_in_mid_move(world: World, candidates: None) -> None:
    first = leader(world)
    world.apply("counter")
    world.await_running("counter", node="node-a")
    with world.client("counter") as client:
        world.move("counter", "node-b")
        world.until(lambda: begun(world), "the move has begun")
        kill_daemon(lab_dir(world.lab.name), first)
        world.await_running("counter", node="node-b")
        world.goes_on(client)
    assert holder(world) == other(first)
    world.await_one_copy("counter", node="node-b")
    assert len(world.migrations("counter")) == 1


def test_one_that_is_asked_to_end_leaves_the_lease_to_the_other_at_once(
    world: World, candidates: None
) -> None:
    directory, first = lab_dir(world.lab.name), leader(world)
    signal_daemon(directory, first, signal.SIGTERM)
    world.until(lambda: not daemon_alive(directory, first), "the one that was asked to ends")
    ended = time.monotonic()
    world.until(lambda: holder(world) == other(first), "the other leads")
    assert time.monotonic() - ended < LEASE_SECONDS / 3


def test_one_that_was_hung_for_longer_than_its_lease_ends_without_acting(
    world: World, candidates: None
) -> None:
    directory, first = lab_dir(world.lab.name), leader(world)
    world.apply("counter")
    world.await_running("counter", node="node-a")
    signal_daemon(directory, first, signal.SIGSTOP)
    world.move("counter", "node-b")
    world.await_running("counter", node="node-b")
    assert holder(world) == other(first)

    signal_daemon(directory, first, signal.SIGCONT)
    world.until(lambda: not daemon_alive(directory, first), "the one that was hung ends")
    assert holder(world) == other(first)
    world.await_one_copy("counter", node="node-b")
    assert [m["spec"]["targetNode"] for m in world.migrations("counter")] == ["node-b"]
