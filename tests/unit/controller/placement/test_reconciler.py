"""A placement's life under the operator's loops, on a cluster and agents in memory."""

from __future__ import annotations

from functools import partial

import pytest

from fakes.operator_world import OperatorWorld
from fakes.resources import UID, node_agent
from transship.agentapi.states import RecordState, SideState
from transship.api.address_pool import AddressPool
from transship.api.conditions import find, is_true
from transship.api.container import EnvVar
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement, PlacementPhase
from transship.api.quantity import bytes_of
from transship.common.errors import Refused, Unreachable
from transship.controller.ports import DataKind

pytestmark = pytest.mark.timeout(20)


def condition_of(world: OperatorWorld, kind: str) -> tuple[str, str]:
    found = find(world.web.status.conditions, kind)
    return ("absent", "") if found is None else (found.status.value, found.reason)


def allocations(world: OperatorWorld) -> list[str]:
    pool = world.cluster.find(AddressPool, "default", None)
    assert pool is not None
    return [a.address for a in pool.status.allocations]


def has_reason(world: OperatorWorld, reason: str) -> bool:
    return world.web.status.reason == reason


async def placed(world: OperatorWorld, node: str = "node-a") -> None:
    await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)
    assert world.agents.runners(UID) == [node]


async def test_a_new_placement_gets_an_address_a_node_and_runs_there() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.create(target_node="node-b")
        await placed(world, "node-b")
        status = world.web.status
        assert (status.node, status.epoch, status.address) == ("node-b", 1, "10.0.128.1")
        assert status.observed_generation == 1
        assert is_true(status.conditions, "Ready")
        assert condition_of(world, "Reconciling") == ("absent", "")
        assert world.agents.at("node-b").orders[0].addresses == ("10.0.128.1",)


async def test_the_node_is_written_down_before_it_is_asked() -> None:
    async with OperatorWorld("node-a") as world:
        world.agents.failing["node-a", "put_container"] = Unreachable("lost")
        world.create(target_node="node-a")
        await world.until(lambda: ("node-a", "put_container") in world.agents.calls)
        assert (world.web.status.node, world.web.status.epoch) == ("node-a", 1)


async def test_an_operator_that_died_after_its_order_asks_no_second_node() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.agents.failing["node-a", "put_container"] = Unreachable("lost")
        world.create(target_node="node-a")
        await world.until(lambda: ("node-a", "put_container") in world.agents.calls)
        await world.kill()
        world.move("node-b")
        world.agents.failing.clear()
        world.start()
        await world.until(lambda: world.web.status.node == "node-b")
        assert [m.spec.source_node for m in world.moves] == ["node-a"]
        assert world.agents.runners(UID) == ["node-b"]


async def test_without_a_target_the_least_loaded_node_is_chosen_and_kept() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.create("other", uid="uid-other", target_node="node-a")
        world.create()
        await placed(world, "node-b")
        world.cluster.put(node_agent("node-c"))
        await world.settle()
        assert world.web.status.node == "node-b"
        assert world.moves == []


async def test_a_missing_target_is_reported_and_waited_for() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-z")
        await world.until(lambda: condition_of(world, "Reconciling")[1] == "NodeNotFound")
        assert world.web.status.phase == PlacementPhase.PENDING
        world.cluster.put(node_agent("node-z"))
        await placed(world, "node-z")


async def test_a_move_to_an_unschedulable_node_waits_and_the_container_runs_on() -> None:
    async with OperatorWorld("node-a") as world:
        world.cluster.put(node_agent("node-b", unschedulable=True))
        world.create(target_node="node-a")
        await placed(world)
        world.move("node-b")
        await world.until(lambda: condition_of(world, "Reconciling")[1] == "NodeUnschedulable")
        assert condition_of(world, "Ready")[0] == "True"
        assert world.moves == []
        world.cluster.put(node_agent("node-b"))
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])


async def test_a_changed_spec_is_ordered_and_a_repetition_is_not() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-a")
        await placed(world)
        assert len(world.agents.at("node-a").orders) == 1
        world.cluster.edit(ContainerPlacement, "web", state="Frozen")
        await world.until(lambda: world.web.status.phase == PlacementPhase.FROZEN)
        assert len(world.agents.at("node-a").orders) == 2
        await world.restart()
        await world.settle()
        assert len(world.agents.at("node-a").orders) == 2


async def test_a_stopped_placement_shows_it() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-a", state="Stopped")
        await world.until(lambda: world.web.status.phase == PlacementPhase.STOPPED)
        assert condition_of(world, "Ready") == ("False", "ContainerStopped")


async def test_a_node_that_was_away_gets_its_order_again() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-a")
        await placed(world)
        world.agents.at("node-a").reboot()
        await world.until(lambda: len(world.agents.at("node-a").orders) == 2)
        await placed(world)


async def test_a_silent_node_makes_ready_unknown_and_nothing_starts_elsewhere() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.create(target_node="node-a")
        await placed(world)
        world.agents.silent.add("node-a")
        world.clock.pass_time(60)
        await world.until(lambda: condition_of(world, "Ready") == ("Unknown", "AgentUnreachable"))
        world.move("node-b")
        await world.settle()
        assert world.agents.holders(UID) == ["node-a"]
        assert condition_of(world, "Reconciling")[1] == "NodeLost"
        world.agents.silent.clear()
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])


async def test_references_are_resolved_and_a_missing_one_is_reported() -> None:
    env = [
        {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "words", "key": "hello"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "BOTH", "value": "$(GREETING), $(NODE)"},
    ]
    async with OperatorWorld("node-a") as world:
        container = {"image": "registry/web:1", "env": env, "args": ["$(BOTH)"]}
        world.create(target_node="node-a", container=container)
        await world.until(lambda: condition_of(world, "Reconciling")[1] == "ConfigMapNotFound")
        world.data.contents[DataKind.CONFIG_MAP, "words"] = {"hello": b"Guten Tag"}
        await placed(world)
        ordered = world.agents.at("node-a").orders[0].container
        assert EnvVar(name="BOTH", value="Guten Tag, node-a") in ordered.env
        assert ordered.args == ("Guten Tag, node-a",)


async def test_a_refused_order_is_reported_and_tried_again() -> None:
    async with OperatorWorld("node-a") as world:
        world.agents.failing["node-a", "put_container"] = Refused("no", reason="InvalidImage")
        world.create(target_node="node-a")
        await world.until(lambda: condition_of(world, "Reconciling") == ("True", "InvalidImage"))
        assert "InvalidImage" in world.recorder.reasons
        world.agents.failing.clear()
        await placed(world)


async def test_two_placements_never_share_an_address() -> None:
    async with OperatorWorld("node-a") as world:
        for number in range(12):
            world.create(f"web-{number}", uid=f"uid-{number}")
        await world.until(lambda: len(allocations(world)) == 12)
        assert len(set(allocations(world))) == 12


async def test_deletion_ends_the_container_frees_the_address_and_leaves_nothing() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-a")
        await placed(world)
        await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
        assert world.agents.holders(UID) == []
        assert allocations(world) == []


async def test_deletion_waits_for_a_silent_owner() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-a")
        await placed(world)
        world.agents.silent.add("node-a")
        world.clock.pass_time(60)
        await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
        await world.until(lambda: condition_of(world, "Reconciling") == ("True", "Deleting"))
        await world.settle()
        assert allocations(world) == ["10.0.128.1"]
        world.agents.silent.clear()
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
        assert world.agents.holders(UID) == []


async def test_deletion_does_not_wait_for_a_node_that_was_deleted_long_ago() -> None:
    async with OperatorWorld("node-a") as world:
        world.create(target_node="node-a")
        await placed(world)
        world.agents.silent.add("node-a")
        await world.cluster.delete(NodeAgent, name="node-a")
        await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
        assert world.clock.monotonic() >= 60


async def left_behind(world: OperatorWorld) -> None:
    """The container is on node-b; node-a fell silent before it ended its frozen copy."""
    world.create(target_node="node-a")
    await placed(world)
    world.agents.stop_at = SideState.RELEASED
    world.move("node-b")
    await world.until(lambda: world.agents.runners(UID) == ["node-b"])
    world.agents.silent.add("node-a")
    await world.until(lambda: [m.status.phase for m in world.moves] == [MigrationPhase.SUCCEEDED])
    assert world.agents.holders(UID) == ["node-a", "node-b"]
    await world.cluster.delete(ContainerPlacement, name="web", namespace="default")


async def test_deletion_waits_for_a_silent_node_that_may_have_a_frozen_copy() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await left_behind(world)
        await world.until(lambda: world.agents.holders(UID) == ["node-a"])
        await world.settle()
        condition = find(world.web.status.conditions, "Reconciling")
        assert condition is not None
        assert condition.reason == "Deleting"
        assert "node-a does not answer" in condition.message
        world.agents.silent.clear()
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
        assert world.agents.holders(UID) == []


async def test_deletion_does_not_wait_for_it_once_it_is_gone_for_good() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await left_behind(world)
        await world.until(lambda: world.agents.holders(UID) == ["node-a"])
        await world.cluster.delete(NodeAgent, name="node-a")
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)


async def test_deletion_in_mid_move_brings_the_container_back_first_and_ends_it() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.create(target_node="node-a")
        await placed(world)
        world.agents.stop_at = RecordState.FROZEN  # type: ignore[assignment]
        world.move("node-b")
        await world.until(lambda: ("node-a", "begin_outgoing") in world.agents.calls)
        await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
        await world.until(lambda: world.cluster.all(ContainerMigration) == [])
        assert world.agents.holders(UID) == []
        assert allocations(world) == []


def with_room(world: OperatorWorld, memory: str, *names: str) -> None:
    for name in names:
        world.cluster.put(node_agent(name, capacity={"memoryBytes": bytes_of(memory)}))


def asking(memory: str) -> dict[str, object]:
    return {"image": "web", "resources": {"requests": {"memory": memory}}}


async def test_two_that_are_made_at_once_and_of_which_one_fits_are_not_both_placed() -> None:
    async with OperatorWorld("node-a") as world:
        with_room(world, "1Gi", "node-a")
        for name in ("web", "other"):
            uid = UID if name == "web" else "uid-other"
            world.create(name, uid=uid, target_node="node-a", container=asking("600Mi"))

        def reasons() -> list[str]:
            found = world.cluster.all(ContainerPlacement)
            return sorted(each.status.reason for each in found)

        await world.until(lambda: reasons() == ["ContainerReady", "InsufficientMemory"])
        [waiting] = [
            p for p in world.cluster.all(ContainerPlacement)
            if p.status.reason == "InsufficientMemory"
        ]  # fmt: skip
        assert waiting.status.node is None
        assert waiting.status.phase == PlacementPhase.PENDING
        assert len(world.agents.at("node-a").orders) == 1


async def test_two_that_move_at_once_to_where_one_fits_are_not_both_moved() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        with_room(world, "4Gi", "node-a")
        with_room(world, "1Gi", "node-b")
        names = ("web", "other")
        for name in names:
            uid = UID if name == "web" else "uid-other"
            world.create(name, uid=uid, target_node="node-a", container=asking("600Mi"))

        def phases() -> set[PlacementPhase | None]:
            return {each.status.phase for each in world.cluster.all(ContainerPlacement)}

        await world.until(lambda: phases() == {PlacementPhase.RUNNING})
        for name in names:
            world.move("node-b", name)

        def reasons() -> list[str]:
            return sorted(e.status.reason for e in world.cluster.all(ContainerPlacement))

        await world.until(lambda: reasons() == ["ContainerReady", "InsufficientMemory"])
        nodes = sorted(e.status.node or "" for e in world.cluster.all(ContainerPlacement))
        assert nodes == ["node-a", "node-b"]
        assert len(world.moves) == 1


async def test_what_had_no_room_is_placed_once_there_is_some() -> None:
    async with OperatorWorld("node-a") as world:
        with_room(world, "1Gi", "node-a")
        world.create(target_node="node-a", container=asking("500Gi"))
        await world.until(lambda: world.web.status.reason == "InsufficientMemory")
        assert world.agents.at("node-a").orders == []
        with_room(world, "900Gi", "node-a")
        await placed(world)


async def test_an_unusable_target_is_reported_while_the_container_runs_on() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.create(target_node="node-a")
        await placed(world)
        world.cluster.put(node_agent("node-b", unschedulable=True))
        for node, reason in (("nowhere", "NodeNotFound"), ("node-b", "NodeUnschedulable")):
            world.move(node)
            await world.until(partial(has_reason, world, reason))
            assert condition_of(world, "Reconciling") == ("True", reason)
            assert condition_of(world, "Ready") == ("True", "ContainerReady")
            assert world.web.status.phase == PlacementPhase.RUNNING
            assert world.agents.runners(UID) == ["node-a"]
        world.move("node-a")
        await world.until(lambda: world.web.status.reason == "ContainerReady")
