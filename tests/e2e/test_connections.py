"""A move harms no connection of a container: nothing is lost or reset, whoever opened it.

See talker for what each kind of conversation is, and talkers.harm for how a lost packet shows.
"""

from __future__ import annotations

import pytest
from talkers import Conversations, contained, on_hosts
from world import World

pytestmark = pytest.mark.lab

QUIET = ("ask", "idle", "unread", "unsent", "udp_ask", "udp_stream")
BULK = ("upload", "download", "both", "half_closed", "half_heard")

families = pytest.mark.parametrize("ipv6", [False, True], ids=["IPv4", "IPv6"])


@families
def test_no_conversation_notices_a_move(world: World, *, ipv6: bool) -> None:
    moved = contained(world, "moved", node="node-a")
    near = contained(world, "near", node="node-a")
    there = contained(world, "there", node="node-b")
    third = contained(world, "third", node="node-c")
    talks = Conversations(ipv6=ipv6)
    with on_hosts(world, "node-a", "node-b", "node-c") as (*nodes, machine):
        for kind in (*QUIET, *BULK, "dial"):
            talks.open(kind, machine, moved)
            talks.open(kind, moved, third)
        for other in (*nodes, near, there):
            talks.open("ask", other, moved)
            talks.open("ask", moved, other)
        talks.open("ask", third, moved)
        move(world, moved="node-b")
        talks.end_well()


@families
def test_two_that_talk_to_each_other_change_places(world: World, *, ipv6: bool) -> None:
    one = contained(world, "one", node="node-a")
    other = contained(world, "other", node="node-b")
    talks = Conversations(ipv6=ipv6)
    for kind in ("ask", "idle", "both", "half_closed", "unread", "udp_stream"):
        talks.open(kind, one, other)
        talks.open(kind, other, one)
    move(world, one="node-b", other="node-a")
    talks.end_well()


def test_conversations_outlast_ten_moves_in_a_row(world: World) -> None:
    moved = contained(world, "moved", node="node-a")
    families = [Conversations(ipv6=False), Conversations(ipv6=True)]
    with on_hosts(world) as (machine,):
        for talks in families:
            for kind in ("ask", "idle", "both", "udp_ask"):
                talks.open(kind, machine, moved)
                talks.open(kind, moved, machine)
        for turn in range(10):
            move(world, moved=world.lab.nodes[(turn + 1) % 2])
        for talks in families:
            talks.end_well()
    assert world.status("moved")["epoch"] == 11


def test_a_connection_that_nobody_has_accepted_yet_is_not_given_up_for_a_move(
    world: World,
) -> None:
    moved = contained(world, "moved", node="node-a")
    talks = Conversations(ipv6=False)
    with on_hosts(world) as (machine,):
        talks.open("queued", machine, moved)
        for kind in (*BULK, "unsent", "dial"):  # repeat what they lose, as at an abort a handshake
            talks.open(kind, machine, moved)
            talks.open(kind, moved, machine)
        world.move("moved", "node-b")
        world.until(lambda: "ConnectionInFlight" in refusals(world, "moved"), "it is given up")
        moved.order("stop")
        world.await_running("moved", node="node-b")
        talks.end_well(small={"queued"})


def move(world: World, **targets: str) -> None:
    """All at once."""
    for name, node in targets.items():
        world.move(name, node)
    for name, node in targets.items():
        world.await_running(name, node=node)


def refusals(world: World, name: str) -> list[str]:
    statuses = [migration.get("status", {}) for migration in world.migrations(name)]
    return [status["reason"] for status in statuses if status.get("phase") == "Failed"]
