"""Conflicts at every other write, an API server that is away, edits by hand: moves end well."""

from __future__ import annotations

import pytest

from fakes.operator_world import OperatorWorld
from fakes.resources import UID
from transship.agentapi.states import SideState
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.placement import ContainerPlacement, PlacementPhase, PlacementStatus
from transship.common.errors import Unreachable

pytestmark = pytest.mark.timeout(20)

STAGES = [SideState.PREPARING, SideState.COPYING, SideState.FROZEN]


async def running_on_a(world: OperatorWorld) -> None:
    world.create(target_node="node-a")
    await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)


async def in_mid_move(world: OperatorWorld, stage: SideState) -> None:
    await running_on_a(world)
    world.agents.stop_at = stage
    world.move("node-b")
    await world.until(lambda: stage in states(world))


def states(world: OperatorWorld) -> set[SideState]:
    source, target = world.agents.at("node-a"), world.agents.at("node-b")
    departing = {d.state for d in source.outgoing_migrations.values()}
    return departing | {a.state for a in target.incoming_migrations.values()}


async def settled(world: OperatorWorld, node: str) -> None:
    """It runs there and nowhere else, the resources say so, nothing is under way."""
    await world.until(
        lambda: (
            world.web.status.node == node
            and world.web.status.phase == PlacementPhase.RUNNING
            and world.web.status.migration is None
            and world.agents.runners(UID) == [node]
            and world.agents.holders(UID) == [node]
            and all(not m.metadata.finalizers for m in world.moves)
        )
    )


async def test_with_conflicts_a_container_is_placed_moved_and_removed() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        world.cluster.contested = True
        await running_on_a(world)
        world.move("node-b")
        await settled(world, "node-b")
        assert [m.status.phase for m in world.moves] == [MigrationPhase.SUCCEEDED]
        world.cluster.contested = False
        await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
        world.cluster.contested = True
        await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
        assert world.agents.holders(UID) == []
        assert world.cluster.conflicts > 5


@pytest.mark.parametrize("stage", STAGES)
async def test_with_conflicts_an_edit_back_leaves_it_where_it_is(stage: SideState) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, stage)
        world.cluster.contested = True
        world.move("node-a")
        world.agents.stop_at = None
        await settled(world, "node-a")


@pytest.mark.parametrize("stage", STAGES)
async def test_an_api_server_that_is_away_for_a_minute_delays_what_is_written_and_nothing_else(
    stage: SideState,
) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, stage)
        world.cluster.failing["*"] = Unreachable("no answer", reason="APIServerUnreachable")
        world.agents.stop_at = None
        began = world.clock.monotonic()
        await world.until(lambda: world.clock.monotonic() > began + 60)
        assert len(world.agents.runners(UID)) <= 1
        world.cluster.failing.clear()
        await settled(world, "node-b")


async def test_a_status_that_was_edited_by_hand_is_corrected_from_the_agents_reports() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.cluster.put(world.web.model_copy(update={"status": PlacementStatus()}))
        await world.restart()
        world.move("node-b")
        await settled(world, "node-b")
        assert world.agents.runners(UID) == ["node-b"]


@pytest.mark.parametrize("stage", STAGES)
async def test_a_migration_whose_finalizer_is_torn_off_by_hand_ends_with_one_copy(
    stage: SideState,
) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await in_mid_move(world, stage)
        [move] = world.moves
        world.cluster.put(move, finalizers=())
        await world.cluster.delete(ContainerMigration, name=move.metadata.name, namespace="default")
        world.agents.stop_at = None
        await world.until(lambda: len(world.agents.holders(UID)) == 1)
        await world.until(lambda: len(world.agents.runners(UID)) == 1)
