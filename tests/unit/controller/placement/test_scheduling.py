"""Which node a placement belongs on."""

from __future__ import annotations

from typing import Any

from fakes.resources import node_agent, placement
from transship.api.obstacle import Obstacle
from transship.api.placement import PlacementSpec
from transship.api.reasons import Reason
from transship.controller.node.nodes import Node
from transship.controller.node.requests import Demand
from transship.controller.placement.scheduling import entrance, wanted_node, wants

SSD = {"disk": "ssd"}
A = Node(node_agent("node-a"), load=3)
B = Node(node_agent("node-b", labels=SSD), load=2)
C = Node(node_agent("node-c", labels=SSD), load=1)
CORDONED = Node(node_agent("node-d", labels=SSD, unschedulable=True))


def spec(**words: Any) -> PlacementSpec:
    return placement(**words).spec


def test_a_named_node_is_wanted_even_if_nobody_knows_it() -> None:
    assert wanted_node(spec(target_node="node-z"), nodes=(A,), present="node-a") == "node-z"


def test_the_least_loaded_fitting_node_is_chosen_and_names_break_ties() -> None:
    selector = spec(node_selector=SSD)
    assert wanted_node(selector, nodes=(A, B, C, CORDONED), present=None) == "node-c"
    even = (Node(B.agent, load=1), C)
    assert wanted_node(selector, nodes=even, present=None) == "node-b"


def test_a_placement_stays_where_it_fits_though_the_node_is_cordoned_or_busy() -> None:
    selector = spec(node_selector=SSD)
    assert wanted_node(selector, nodes=(B, C, CORDONED), present="node-d") == "node-d"
    assert wanted_node(spec(), nodes=(A, B), present="node-a") == "node-a"


def test_a_placement_leaves_a_node_that_does_not_fit() -> None:
    assert wanted_node(spec(node_selector=SSD), nodes=(A, B), present="node-a") == "node-b"


def test_a_node_to_which_the_move_failed_is_avoided_where_there_is_another() -> None:
    selector = spec(node_selector=SSD)
    chosen = wanted_node(selector, nodes=(A, B, C), present="node-a", failures={"node-c": 1})
    assert chosen == "node-b"


def test_the_obstacle_names_the_labels_or_why_no_node_can_be_used() -> None:
    none = wanted_node(spec(node_selector={"disk": "tape"}), nodes=(A, B), present=None)
    assert isinstance(none, Obstacle)
    assert "disk=tape" in none.message
    barred = wanted_node(spec(node_selector=SSD), nodes=(A, CORDONED), present=None)
    assert isinstance(barred, Obstacle)
    assert "node-d" in barred.message


def test_nodes_without_room_are_passed_over_and_the_shared_reason_is_reported() -> None:
    little, much = ({"memoryBytes": count * 2**30} for count in (1, 16))
    small, large = (
        Node(node_agent(name, labels=SSD, capacity=has), load=load)
        for name, has, load in (("node-b", little, 0), ("node-c", much, 5))
    )
    wanted, selector = Demand("uid", memory_bytes=2**33), spec(node_selector=SSD)
    assert wanted_node(selector, nodes=(small, large), present=None, wanted=wanted) == "node-c"
    none = wanted_node(selector, nodes=(A, small), present=None, wanted=wanted)
    assert isinstance(none, Obstacle)
    assert none.reason == Reason.INSUFFICIENT_MEMORY
    assert "0 of 1 fitting nodes" in none.message
    mixed = wanted_node(selector, nodes=(small, CORDONED), present=None, wanted=wanted)
    assert isinstance(mixed, Obstacle)
    assert mixed.reason == Reason.FAILED_SCHEDULING
    assert "node-d takes no containers" in mixed.message


def test_a_target_must_exist_be_ready_and_take_containers() -> None:
    lame = Node(node_agent("node-e", ready=False))
    mute = Node(node_agent("node-f"), silent=True)
    nodes = (A, CORDONED, lame, mute)
    reasons = {
        name: found.reason if (found := entrance(name, nodes=nodes)) is not None else None
        for name in ("node-a", "node-d", "node-e", "node-f", "node-z")
    }
    assert reasons == {
        "node-a": None,
        "node-d": Reason.NODE_UNSCHEDULABLE,
        "node-e": Reason.NODE_NOT_READY,
        "node-f": Reason.NODE_NOT_READY,
        "node-z": Reason.NODE_NOT_FOUND,
    }


def test_a_move_under_way_is_wanted_as_long_as_its_target_fits() -> None:
    assert wants(spec(target_node="node-b"), "node-b", nodes=(A, B))
    assert not wants(spec(target_node="node-a"), "node-b", nodes=(A, B))
    assert wants(spec(node_selector=SSD), "node-b", nodes=(A, B))
    assert not wants(spec(node_selector=SSD), "node-a", nodes=(A, B))
    assert wants(spec(), "node-b", nodes=(A, B))
