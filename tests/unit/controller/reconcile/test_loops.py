"""Who gets a loop, and that nothing with our finalizer is let go but by its own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import kopf
import pytest
from kopf._cogs.structs.ephemera import Memo
from kopf._cogs.structs.patches import Patch
from kopf._cogs.structs.references import Resource as KopfResource
from kopf._core.actions import lifecycles
from kopf._core.engines.indexing import OperatorIndexers
from kopf._core.reactor import inventory, processing

from fakes.operator_world import OperatorWorld
from fakes.resources import NOW, UID, ended, migration, node_agent, placement
from transship.agentapi.states import SideState
from transship.api import FINALIZER, GROUP, VERSION
from transship.api.address_pool import AddressPool
from transship.api.conditions import find
from transship.api.migration import ContainerMigration
from transship.api.placement import ContainerPlacement, PlacementPhase
from transship.common.errors import Unreachable
from transship.controller.handlers import register
from transship.controller.placement.reconciler import PlacementReconciler
from transship.controller.reconcile.loops import needs_loop
from transship.controller.relist import fill
from transship.controller.settings import KOPF_FINALIZER, configure
from transship.kube.listing import Unreadable

pytestmark = pytest.mark.timeout(20)


async def running_on_a(world: OperatorWorld) -> None:
    world.create(target_node="node-a")
    await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)


async def delete(world: OperatorWorld, name: str = "web") -> None:
    await world.cluster.delete(ContainerPlacement, name=name, namespace="default")


def is_gone(world: OperatorWorld) -> bool:
    return world.cluster.find(ContainerPlacement, "web") is None


class TestNeed:
    def test_a_placement_needs_a_loop_until_its_finalizer_is_gone(self) -> None:
        new = placement(metadata={"finalizers": []})
        assert needs_loop(new)
        assert needs_loop(placement())
        deleted = {"deletionTimestamp": NOW, "finalizers": ["other"]}
        assert not needs_loop(placement(metadata=deleted))
        assert needs_loop(placement(metadata={**deleted, "finalizers": [FINALIZER]}))

    def test_a_finished_migration_needs_its_loop_until_its_finalizer_is_gone(self) -> None:
        over = ended(migration(), good=False)
        meta = over.metadata.model_copy(update={"finalizers": ()})
        assert needs_loop(migration())
        assert needs_loop(over)
        assert not needs_loop(over.model_copy(update={"metadata": meta}))
        assert needs_loop(migration().model_copy(update={"metadata": meta}))

    def test_what_is_no_work_needs_none(self) -> None:
        pool = {"metadata": {"name": "default"}, "spec": {"cidr": "10.0.128.0/24"}}
        assert not needs_loop(node_agent("node-a"))
        assert not needs_loop(AddressPool.model_validate(pool))


class TestDeletion:
    async def test_while_no_operator_runs_is_carried_out_by_the_next_one(self) -> None:
        async with OperatorWorld("node-a") as world:
            await running_on_a(world)
            await world.kill()
            await delete(world)
            assert world.web.metadata.finalizers == (FINALIZER,)
            world.start()
            await world.until(lambda: is_gone(world))
            assert world.agents.holders(UID) == []

    async def test_that_was_not_through_at_a_restart_goes_on_after_it(self) -> None:
        async with OperatorWorld("node-a") as world:
            await running_on_a(world)
            world.agents.silent.add("node-a")
            await delete(world)
            await world.settle()
            await world.restart()
            await world.settle()
            assert world.web.metadata.finalizers == (FINALIZER,)
            world.agents.silent.clear()
            await world.until(lambda: is_gone(world))
            assert world.agents.holders(UID) == []

    async def test_of_a_migration_while_no_operator_runs_cancels_it(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world)
            world.agents.stop_at = SideState.COPYING
            world.move("node-b")
            await world.until(lambda: ("node-a", "begin_outgoing") in world.agents.calls)
            await world.kill()
            await world.cluster.delete(ContainerMigration, name="web-1-1", namespace="default")
            assert [m.metadata.finalizers for m in world.moves] == [(FINALIZER,)]
            world.agents.stop_at = None
            world.start()
            await world.until(lambda: world.moves == [])
            await world.until(lambda: stalled(world) == "MigrationCancelled")
            assert world.agents.holders(UID) == ["node-a"]

    async def test_before_anything_was_held_leaves_nothing(self) -> None:
        async with OperatorWorld("node-a") as world:
            world.cluster.failing["json_patch"] = Unreachable("no answer")
            world.create(target_node="node-a")
            await world.settle()
            await delete(world)
            world.cluster.failing.clear()
            await world.settle()
            assert is_gone(world)
            assert world.agents.at("node-a").orders == []
            assert UID not in world.loops.with_loop

    async def test_under_a_foreign_finalizer_before_anything_was_held_starts_nothing(self) -> None:
        async with OperatorWorld("node-a") as world:
            await world.kill()
            world.create(target_node="node-a", metadata={"finalizers": ["other"]})
            await delete(world)
            world.start()
            await world.settle()
            assert world.web.metadata.finalizers == ("other",)
            assert world.agents.at("node-a").orders == []

    async def test_whose_last_write_fails_is_tried_again(self) -> None:
        async with OperatorWorld("node-a") as world:
            await running_on_a(world)
            world.cluster.failing["json_patch"] = Unreachable("no answer")
            await delete(world)
            await world.until(lambda: world.agents.holders(UID) == [])
            await world.settle()
            assert world.web.metadata.finalizers == (FINALIZER,)
            world.cluster.failing.clear()
            await world.until(lambda: is_gone(world))


async def test_nothing_is_started_before_the_finalizer_is_stored() -> None:
    async with OperatorWorld("node-a") as world:
        world.cluster.failing["json_patch"] = Unreachable("no answer")
        world.create(target_node="node-a")
        await world.settle()
        assert world.agents.at("node-a").orders == []
        assert world.web.status.address is None
        world.cluster.failing.clear()
        await world.until(lambda: world.agents.runners(UID) == ["node-a"])
        assert world.web.metadata.finalizers == (FINALIZER,)


async def test_a_loop_that_fails_is_logged_and_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(self: PlacementReconciler) -> None:
        raise RuntimeError("nobody thought of this")

    async with OperatorWorld("node-a") as world:
        with monkeypatch.context() as patched:
            patched.setattr(PlacementReconciler, "run", broken)
            world.create(target_node="node-a", metadata={"finalizers": [FINALIZER]})
            await world.settle(2)
        assert len(world.loops.errors) == 1
        world.loops.errors.clear()
        assert world.loops.with_loop == frozenset()
        world.loops.resume()
        await world.until(lambda: world.agents.runners(UID) == ["node-a"])


async def test_only_events_start_loops_of_new_placements() -> None:
    async with OperatorWorld("node-a") as world:
        world.deps.cache.put(placement(metadata={"finalizers": []}))
        world.loops.resume()
        assert world.loops.with_loop == frozenset()


async def test_an_object_that_cannot_be_read_hinders_no_start_and_keeps_its_loop() -> None:
    async with OperatorWorld("node-a") as world:
        odd = Unreadable("ContainerPlacement", "odd", "default", "uid-odd", "1", "spec: missing")
        hidden = Unreadable("ContainerPlacement", "web", "default", UID, "9", "spec: missing")
        world.cluster.unreadable += [odd]
        await fill(world.deps)
        await running_on_a(world)
        world.cluster.unreadable += [hidden]
        await fill(world.deps)
        await world.settle()
        assert UID in world.loops.with_loop
        assert world.agents.runners(UID) == ["node-a"]


async def test_an_unreadable_migration_is_not_cleaned_up() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.agents.stop_at = SideState.COPYING
        world.move("node-b")
        await world.until(lambda: ("node-a", "begin_outgoing") in world.agents.calls)
        await world.kill()
        [move] = world.moves
        meta = move.metadata
        world.cluster.unreadable += [
            Unreadable("ContainerMigration", meta.name, meta.namespace, meta.uid, "9", "odd")
        ]
        world.start()
        world.deps.cache.drop(move)
        await world.settle()
        assert ("node-a", "abort_outgoing") not in world.agents.calls
        assert ("node-b", "abort_incoming") not in world.agents.calls


class TestUnderKopf:
    """kopf's own reaction to an event, with our handlers and settings and without a cluster."""

    @pytest.mark.parametrize("kind", [None, "MODIFIED"])
    async def test_what_is_being_deleted_when_first_seen_gets_a_loop_and_keeps_its_finalizer(
        self, kind: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with OperatorWorld("node-a") as world:
            made = placement(metadata={"deletionTimestamp": NOW, "resourceVersion": "7"})
            document = reacted_to(made)
            patch = await reaction(world, kind, document, monkeypatch)
            assert patch.as_json_patch() == []
            assert UID in world.loops.with_loop

    async def test_a_new_one_gets_a_loop_and_nothing_of_kopf(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with OperatorWorld("node-a") as world:
            made = placement(metadata={"finalizers": [], "resourceVersion": "7"})
            patch = await reaction(world, "ADDED", reacted_to(made), monkeypatch)
            assert patch.as_json_patch() == []
            assert UID in world.loops.with_loop

    async def test_a_finalizer_of_kopf_is_removed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with OperatorWorld("node-a") as world:
            both = {"finalizers": [KOPF_FINALIZER, FINALIZER], "resourceVersion": "7"}
            document = reacted_to(placement(metadata={**both, "deletionTimestamp": NOW}))
            patch = await reaction(world, None, document, monkeypatch)
            for change in patch.fns:
                change(document)  # type: ignore[arg-type]
            assert document["metadata"]["finalizers"] == [FINALIZER]

    async def test_what_cannot_be_read_is_left_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with OperatorWorld("node-a") as world:
            document = reacted_to(placement(metadata={"deletionTimestamp": NOW}))
            del document["spec"]
            patch = await reaction(world, None, document, monkeypatch)
            assert patch.as_json_patch() == []
            assert world.loops.with_loop == frozenset()


def reacted_to(made: ContainerPlacement) -> dict[str, Any]:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "ContainerPlacement", **made.dump()}


async def reaction(
    world: OperatorWorld,
    kind: str | None,
    document: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Patch:
    """What kopf would write to the object after this event."""
    written: list[Patch] = []

    async def apply(*, patch: Patch, **_: Any) -> tuple[bool, None, None]:
        written.append(patch)
        return True, None, None

    monkeypatch.setattr("kopf._core.reactor.processing.application.apply", apply)
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    configure(settings)
    register(registry, world.deps, world.loops)
    await processing.process_resource_event(
        lifecycle=lifecycles.all_at_once,
        indexers=OperatorIndexers(),
        registry=registry,
        settings=settings,
        memories=inventory.ResourceMemories(),
        memobase=Memo(),  # type: ignore[arg-type]
        resource=KopfResource(GROUP, VERSION, "containerplacements", kind="ContainerPlacement"),
        raw_event={"type": kind, "object": document},  # type: ignore[typeddict-item]
        event_queue=asyncio.Queue(),
    )
    [patch] = written
    return patch


def stalled(world: OperatorWorld) -> str:
    found = find(world.web.status.conditions, "Stalled")
    return "" if found is None else found.reason
