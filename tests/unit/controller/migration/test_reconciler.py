"""Moves under the operator's loops: the way there, the ways back, and the operator's own end."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from fakes.operator_world import OperatorWorld
from fakes.resources import UID, node_agent
from transship.agentapi.states import SideState
from transship.api.conditions import find
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement, PlacementPhase
from transship.common.errors import TransshipError, Unreachable

pytestmark = pytest.mark.timeout(20)

STAGES = [SideState.PREPARING, SideState.COPYING, SideState.FROZEN]


async def running_on_a(world: OperatorWorld, **spec: Any) -> None:
    world.create(target_node="node-a", **spec)
    await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)


def is_on(world: OperatorWorld, node: str) -> bool:
    return world.web.status.node == node


async def in_mid_move(world: OperatorWorld, stage: SideState) -> None:
    """A move to node-b that has come to this state and stays there."""
    await running_on_a(world)
    world.agents.stop_at = stage
    world.move("node-b")
    await world.until(lambda: stage in _states(world))


def _states(world: OperatorWorld) -> set[SideState]:
    source, target = world.agents.at("node-a"), world.agents.at("node-b")
    departing = {d.state for d in source.outgoing_migrations.values()}
    return departing | {a.state for a in target.incoming_migrations.values()}


def phases(world: OperatorWorld) -> list[MigrationPhase | None]:
    return [m.status.phase for m in world.moves]


def stalled(world: OperatorWorld) -> str:
    found = find(world.web.status.conditions, "Stalled")
    return "" if found is None else found.reason


async def ended(world: OperatorWorld, count: int = 1) -> None:
    def over() -> bool:
        return len(world.moves) >= count and all(
            m.status.completion_time is not None and not m.metadata.finalizers for m in world.moves
        )

    await world.until(over)


async def test_editing_the_target_moves_the_container() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.move("node-b")
        await ended(world)
        await world.until(lambda: world.web.status.node == "node-b")
        status, move = world.web.status, world.moves[0]
        assert world.agents.holders(UID) == ["node-b"]
        assert (status.node, status.epoch, status.migration) == ("node-b", 2, None)
        assert move.metadata.name == "web-1-1"
        assert move.status.phase == MigrationPhase.SUCCEEDED
        assert move.status.blackout_milliseconds == 123
        assert status.last_migration is not None
        assert status.last_migration.blackout_milliseconds == 123
        assert "MigrationSucceeded" in world.recorder.reasons


async def test_the_target_is_ordered_the_image_that_runs() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.move("node-b")
        await ended(world)
        assert world.agents.at("node-b").records[UID].order.image_digest == "sha256:1"


async def test_there_and_back_again() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        for count, node in enumerate(["node-b", "node-a", "node-b"], start=1):
            world.move(node)
            await ended(world, count)
            await world.until(partial(is_on, world, node))
        assert world.web.status.epoch == 4
        assert [m.metadata.name for m in world.moves] == ["web-1-1", "web-2-1", "web-3-1"]


@pytest.mark.parametrize("stage", STAGES)
async def test_editing_back_before_the_release_cancels_and_keeps_the_record(
    stage: SideState,
) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, stage)
        world.move("node-a")
        await ended(world)
        await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)
        assert world.agents.holders(UID) == ["node-a"]
        assert phases(world) == [MigrationPhase.CANCELLED]
        assert world.moves[0].status.reason == "MigrationSuperseded"
        assert stalled(world) == ""


@pytest.mark.parametrize("stage", STAGES)
async def test_deleting_a_running_migration_cancels_it_for_this_spec(stage: SideState) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, stage)
        await world.cluster.delete(ContainerMigration, name="web-1-1", namespace="default")
        await world.until(lambda: world.moves == [])
        await world.until(lambda: stalled(world) == "MigrationCancelled")
        assert world.agents.runners(UID) == ["node-a"]
        await world.restart()
        await world.settle()
        assert world.moves == []
        world.agents.stop_at = None
        world.move("node-b")
        await ended(world)
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])
        await world.until(lambda: stalled(world) == "")


async def test_a_third_node_cancels_the_first_move_and_begins_another() -> None:
    async with OperatorWorld("node-a", "node-b", "node-c") as world:
        await in_mid_move(world, SideState.COPYING)
        world.move("node-c")
        await world.until(lambda: len(world.moves) == 2)
        world.agents.stop_at = None
        await ended(world, 2)
        assert phases(world) == [MigrationPhase.CANCELLED, MigrationPhase.SUCCEEDED]
        assert world.agents.holders(UID) == ["node-c"]


async def test_after_the_release_the_move_is_finished_and_another_brings_it_back() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, SideState.RELEASED)
        world.move("node-a")
        world.agents.stop_at = None
        await ended(world, 2)
        assert phases(world) == [MigrationPhase.SUCCEEDED, MigrationPhase.SUCCEEDED]
        assert world.agents.holders(UID) == ["node-a"]
        await world.until(lambda: world.web.status.epoch == 3)


async def test_a_verdict_that_the_target_never_got_is_relayed() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, SideState.FROZEN)
        world.agents.cut.clear()
        world.agents.stop_at = SideState.RELEASED  # the source never brings it by itself
        await ended(world)
        assert ("node-b", "relay") in world.agents.calls
        assert world.agents.runners(UID) == ["node-b"]


@pytest.mark.parametrize("stage", [*STAGES, SideState.RELEASED])
async def test_an_operator_killed_at_any_stage_goes_on_from_there(stage: SideState) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, stage)
        await world.kill()
        world.agents.stop_at = None
        world.start()
        await ended(world)
        await world.until(lambda: world.web.status.node == "node-b")
        assert phases(world) == [MigrationPhase.SUCCEEDED]
        assert world.agents.holders(UID) == ["node-b"]


async def test_an_operator_killed_before_the_cleanup_cleans_up_later() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.cluster.failing["json_patch"] = TransshipError("away")
        world.move("node-b")
        await world.until(lambda: phases(world) == [MigrationPhase.SUCCEEDED])
        world.cluster.failing.clear()
        await world.restart()
        await ended(world)


async def test_a_source_learns_which_nodes_need_no_more_of_its_memory() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.agents.failing["node-a", "forget_outgoing"] = TransshipError("its disk is full")
        world.move("node-b")
        await world.until(lambda: phases(world) == [MigrationPhase.SUCCEEDED])
        world.agents.silent.add("node-b")
        await world.cluster.delete(NodeAgent, name="node-b")
        await world.until(lambda: world.deps.agent_poller.gone("node-b"))
        assert world.agents.at("node-a").nodes_gone == set()
        world.agents.failing.clear()
        await world.until(lambda: world.agents.at("node-a").nodes_gone == {"node-b"})


async def test_a_target_that_cannot_prepare_fails_the_move_and_it_is_tried_again() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.agents.failing["node-b", "prepare"] = TransshipError("no", reason="ImagePullFailed")
        world.move("node-b")
        await world.until(lambda: phases(world)[:1] == [MigrationPhase.FAILED])
        assert world.moves[0].status.reason == "ImagePullFailed"
        assert world.agents.runners(UID) == ["node-a"]
        world.agents.failing.clear()
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])
        assert world.clock.monotonic() >= 10


async def test_too_many_failures_stall_until_the_spec_changes() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world, migration={"backoffLimit": 1})
        world.agents.failing["node-a", "dump"] = TransshipError("io_uring", reason="DumpFailed")
        world.move("node-b")
        await world.until(lambda: stalled(world) == "BackoffLimitExceeded")
        assert phases(world) == [MigrationPhase.FAILED] * 2
        assert world.moves[0].status.log_tail is not None
        ready = find(world.web.status.conditions, "Ready")
        assert ready is not None
        assert ready.status == "True"
        world.agents.failing.clear()
        world.move("node-b")
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])


async def test_preflight_refuses_before_anything_is_asked() -> None:
    async with OperatorWorld("node-a") as world:
        world.cluster.put(node_agent("node-b", features={"machine": "aarch64"}))
        await running_on_a(world)
        world.move("node-b")
        await world.until(lambda: phases(world)[:1] == [MigrationPhase.FAILED])
        assert world.moves[0].status.reason == "ArchitectureDiffers"
        assert ("node-b", "begin_incoming") not in world.agents.calls


async def test_a_target_that_falls_silent_is_given_up_by_the_source() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, SideState.COPYING)
        world.agents.silent.add("node-b")
        world.agents.stop_at = None
        await world.until(lambda: phases(world)[:1] == [MigrationPhase.FAILED])
        assert world.moves[0].status.reason == "TargetUnreachable"
        assert world.agents.runners(UID) == ["node-a"]
        world.agents.silent.clear()
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])


async def test_nothing_is_concluded_from_a_silent_source() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.agents.failing["node-b", "relay"] = Unreachable("lost")
        await in_mid_move(world, SideState.RELEASED)
        world.agents.silent.add("node-a")
        world.move("node-a")
        world.clock.pass_time(3600)
        await world.settle()
        assert phases(world) == [MigrationPhase.HANDING_OVER]
        assert world.agents.holders(UID) == ["node-a", "node-b"]
        world.agents.silent.clear()
        world.agents.failing.clear()
        await world.until(lambda: world.web.status.epoch == 3)
        await world.until(lambda: world.agents.holders(UID) == ["node-a"])


async def test_the_deadline_ends_a_move_that_takes_too_long() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world, migration={"deadlineSeconds": 30, "backoffLimit": 0})
        world.agents.stop_at = SideState.COPYING
        world.move("node-b")
        await world.until(lambda: phases(world) == [MigrationPhase.FAILED])
        assert world.moves[0].status.reason == "DeadlineExceeded"
        await world.until(lambda: stalled(world) == "BackoffLimitExceeded")
        assert world.agents.holders(UID) == ["node-a"]


async def test_a_spec_changed_together_with_the_target_is_ordered_before_the_move() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        container = {"image": "registry/web:2"}
        world.cluster.edit(ContainerPlacement, "web", container=container, target_node="node-b")
        await ended(world)
        assert phases(world) == [MigrationPhase.SUCCEEDED]
        assert world.agents.at("node-a").orders[-1].container.image == "registry/web:2"
        assert world.agents.at("node-b").records[UID].order.container.image == "registry/web:2"


async def test_history_is_kept_within_its_limits() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world, migration={"successfulHistoryLimit": 1})
        for node in ("node-b", "node-a", "node-b"):
            world.move(node)
            await world.until(partial(is_on, world, node))
        await world.until(lambda: [m.metadata.name for m in world.moves] == ["web-3-1"])


async def test_many_moves_at_once_wait_for_places_and_all_succeed() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        names = [f"web-{n}" for n in range(9)]
        for name in names:
            world.create(name, uid=f"uid-{name}", target_node="node-a")
        await world.until(lambda: len(world.agents.at("node-a").records) == 9)
        most = 0

        def arrived() -> bool:
            nonlocal most
            most = max(most, len(world.deps.cache.moves()))
            return len(world.agents.at("node-b").records) == 9 and not world.deps.cache.moves()

        for name in names:
            world.move("node-b", name)
        await world.until(arrived)
        assert most == 2
