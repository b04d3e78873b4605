"""Agents that claim what is not theirs, lost records, and nodes that an administrator fenced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from fakes.agents import Record
from fakes.operator_world import OperatorWorld
from fakes.resources import UID
from transship.agentapi.states import RecordState, SideState
from transship.api.conditions import find
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement, PlacementPhase, PlacementStatus
from transship.common.errors import Refused, Unreachable
from transship.controller.migration.history import source_was_fenced
from transship.controller.ports import DataKind

pytestmark = pytest.mark.timeout(20)

SECRET = {"name": "s", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}
CONTAINER = {"image": "registry/web:1", "env": [SECRET]}


async def running_on_a(world: OperatorWorld, **spec: Any) -> None:
    world.data.contents[DataKind.SECRET, "keys"] = {"key": b"very secret"}
    world.create(**{"target_node": "node-a", "container": CONTAINER, **spec})
    await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)


def lies(world: OperatorWorld, node: str, *, epoch: int, id: str = UID) -> None:
    """The agent says that it owns the container; nothing runs there."""
    [order] = world.agents.at("node-a").orders[:1]
    with_owner = order.model_copy(update={"id": id})
    world.agents.at(node).records[id] = Record(with_owner, epoch, RecordState.STOPPED)


def words(world: OperatorWorld, kind: str) -> tuple[str, str]:
    found = find(world.web.status.conditions, kind)
    return ("", "") if found is None else (found.reason, found.message)


def disputed(world: OperatorWorld) -> bool:
    return words(world, "OwnerDisputed")[0] == "OwnerDisputed"


def untouched(world: OperatorWorld) -> bool:
    """The true copy is where it was, and nobody else has heard a secret."""
    strangers = [a for n, a in world.agents.nodes.items() if n != "node-a"]
    status = world.web.status
    return (
        (status.node, status.epoch) == ("node-a", 1)
        and world.agents.runners(UID) == ["node-a"]
        and ("node-a", "remove_container") not in world.agents.calls
        and all(agent.orders == [] and agent.incoming_migrations == {} for agent in strangers)
    )


@pytest.mark.parametrize("epoch", [1, 2, 10**9, 2**40])
async def test_an_agent_owns_nothing_by_saying_so(epoch: int) -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        lies(world, "node-b", epoch=epoch)
        await world.until(lambda: disputed(world))
        await world.settle()
        assert untouched(world)
        assert f"node-b (epoch {epoch})" in words(world, "OwnerDisputed")[1]
        assert world.recorder.reasons.count("OwnerDisputed") == 1
        del world.agents.at("node-b").records[UID]
        await world.until(lambda: not disputed(world))


async def test_the_owner_is_ordered_and_moved_whatever_another_agent_reports() -> None:
    async with OperatorWorld("node-a", "node-b", "node-c") as world:
        await running_on_a(world)
        lies(world, "node-c", epoch=10**9)
        await world.until(lambda: disputed(world))
        world.cluster.edit(ContainerPlacement, "web", state="Frozen")
        await world.until(lambda: world.web.status.phase == PlacementPhase.FROZEN)
        world.cluster.edit(ContainerPlacement, "web", state="Running", target_node="node-b")
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])
        assert world.agents.at("node-c").orders == []


async def test_an_agent_that_reports_a_move_for_ever_blocks_nothing() -> None:
    async with OperatorWorld("node-a", "node-b", "node-c") as world:
        await running_on_a(world)
        lies(world, "node-c", epoch=2)
        liar = world.agents.at("node-c").records[UID]
        liar.state, liar.migration = RecordState.INCOMING, "never-was"
        await world.until(lambda: ("node-c", "abort_incoming") in world.agents.calls)
        world.move("node-b")
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])


async def test_two_liars_change_nothing() -> None:
    async with OperatorWorld("node-a", "node-b", "node-c") as world:
        await running_on_a(world)
        lies(world, "node-b", epoch=2)
        lies(world, "node-c", epoch=3)
        await world.until(lambda: "node-c (epoch 3)" in words(world, "OwnerDisputed")[1])
        await world.settle()
        assert untouched(world)
        assert "node-b (epoch 2)" in words(world, "OwnerDisputed")[1]


async def test_a_liar_gets_nothing_of_another_placement_either() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        world.create("db", uid="uid-db", target_node="node-a", container=CONTAINER)
        await world.until(lambda: "uid-db" in world.agents.at("node-a").records)
        lies(world, "node-b", epoch=7, id="uid-db")
        await world.until(lambda: "OwnerDisputed" in world.recorder.reasons)
        await world.settle()
        assert world.agents.runners("uid-db") == ["node-a"]
        assert world.agents.at("node-b").orders == []


async def test_a_new_placement_goes_where_its_spec_says_whoever_claims_it() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        lies(world, "node-b", epoch=3, id="uid-new")
        world.create("new", uid="uid-new", target_node="node-a", container=CONTAINER)
        await world.until(lambda: "OwnerDisputed" in world.recorder.reasons)
        await world.settle()
        assert world.agents.at("node-b").orders == []


async def test_an_owner_without_the_container_is_not_ordered_while_another_claims_it() -> None:
    """After a restored backup: which of them is right only a person can know."""
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        await world.kill()
        stale = world.web.status.model_copy(update={"node": "node-b", "epoch": 9})
        world.cluster.put(world.web.model_copy(update={"status": stale}))
        world.start()
        await world.until(lambda: disputed(world))
        await world.settle()
        assert world.agents.holders(UID) == ["node-a"]
        assert world.agents.at("node-b").orders == []
        assert ("node-a", "remove_container") not in world.agents.calls


async def test_an_agent_outside_of_a_move_does_not_end_it_by_claiming_its_epoch() -> None:
    async with OperatorWorld("node-a", "node-b", "node-c") as world:
        await running_on_a(world)
        world.agents.stop_at = SideState.COPYING
        world.move("node-b")
        await world.until(lambda: ("node-a", "begin_outgoing") in world.agents.calls)
        lies(world, "node-c", epoch=2)
        await world.until(lambda: disputed(world))
        assert world.web.status.node == "node-a"
        world.agents.stop_at = None
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])
        await world.until(lambda: world.web.status.node == "node-b")
        assert world.agents.at("node-c").orders == []


async def test_a_target_that_reports_to_run_what_was_not_released_is_not_believed() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world, migration={"deadlineSeconds": 30, "backoffLimit": 0})
        world.agents.stop_at = SideState.COPYING
        world.move("node-b")
        await world.until(lambda: ("node-a", "begin_outgoing") in world.agents.calls)
        target, [move] = world.agents.at("node-b"), world.moves
        uid = move.metadata.uid
        target.records[UID].state, target.records[UID].migration = RecordState.STOPPED, None
        target.incoming_migrations[uid] = target.incoming_migrations[uid].model_copy(
            update={"state": SideState.RUNNING}
        )
        phases = [MigrationPhase.FAILED]
        await world.until(lambda: [m.status.phase for m in world.moves] == phases)
        assert world.web.status.node == "node-a"
        assert world.agents.runners(UID) == ["node-a"]
        assert ("node-a", "remove_container") not in world.agents.calls


class TestLostRecord:
    async def lost(self, world: OperatorWorld) -> None:
        await running_on_a(world, target_node=None)
        await world.kill()
        world.cluster.put(world.web.model_copy(update={"status": PlacementStatus()}))

    async def test_the_only_agent_that_has_it_owns_it_again(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world)
            world.start()
            await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)
            assert (world.web.status.node, world.web.status.epoch) == ("node-a", 1)
            assert world.agents.holders(UID) == ["node-a"]
            assert "OwnerAdopted" in world.recorder.reasons

    async def test_no_owner_is_chosen_while_an_agent_that_may_have_it_is_silent(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world)
            world.agents.silent.add("node-a")
            world.start()
            await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
            await world.restart()
            await world.settle()
            assert world.agents.holders(UID) == ["node-a"]
            world.agents.silent.clear()
            await world.until(lambda: world.web.status.node == "node-a")

    async def test_of_two_that_claim_it_none_is_chosen(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world)
            lies(world, "node-b", epoch=2)
            world.start()
            await world.until(lambda: disputed(world))
            await world.settle()
            assert world.web.status.node is None
            assert world.agents.at("node-b").orders == []

    async def test_a_deletion_waits_for_an_agent_that_may_have_it(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world)
            world.agents.silent.add("node-a")
            await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
            world.start()
            await world.settle()
            assert world.cluster.find(ContainerPlacement, "web") is not None
            world.agents.silent.clear()
            await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
            assert world.agents.holders(UID) == []

    async def test_what_the_owner_released_is_followed_without_its_migration(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world)
            world.agents.stop_at = SideState.RELEASED
            world.agents.failing["node-b", "relay"] = TimeoutError()  # type: ignore[assignment]
            world.move("node-b")
            source = world.agents.at("node-a")
            await world.until(
                lambda: UID in source.records and source.records[UID].state == RecordState.RELEASED
            )
            await world.kill()
            [move] = world.moves
            world.cluster.put(move, finalizers=())
            await world.cluster.delete(
                ContainerMigration, name=move.metadata.name, namespace="default"
            )
            world.start()
            await world.until(lambda: world.web.status.node == "node-b")
            assert world.web.status.epoch == 2
            assert world.agents.holders(UID) == ["node-a", "node-b"]  # nobody had said go yet


def taint(world: OperatorWorld, *nodes: str) -> None:
    world.deps.cache.put_out_of_service(nodes)


def delete_node_agent(world: OperatorWorld) -> None:
    agent = world.cluster.find(NodeAgent, "node-a", None)
    assert agent is not None
    world.cluster._remove(agent)


WORDS: dict[str, Callable[[OperatorWorld], None]] = {
    "taint": lambda world: taint(world, "node-a"),
    "deletion": delete_node_agent,
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS.keys())
class TestFencing:
    async def lost(self, world: OperatorWorld, **spec: Any) -> None:
        """node-a is off; what ran there does not run any more."""
        await running_on_a(world, **spec)
        world.agents.silent.add("node-a")
        await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
        world.agents.at("node-a").reboot()
        world.agents.at("node-a").records[UID].state = RecordState.STOPPED

    async def test_the_container_is_started_anew_where_the_spec_says(
        self, word: Callable[[OperatorWorld], None]
    ) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world)
            word(world)
            await world.until(lambda: words(world, "Reconciling")[0] == "NodeFenced")
            world.move("node-b")
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)
            assert (world.web.status.node, world.web.status.epoch) == ("node-b", 2)
            assert "NodeFenced" in world.recorder.reasons

    async def test_without_a_target_another_node_is_chosen(
        self, word: Callable[[OperatorWorld], None]
    ) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world, target_node=None)
            word(world)
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])

    async def test_a_node_that_comes_back_destroys_what_it_had(
        self, word: Callable[[OperatorWorld], None]
    ) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.lost(world, target_node=None)
            gone = world.cluster.find(NodeAgent, "node-a", None)
            word(world)
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            await world.restart()
            assert gone is not None
            world.cluster.put(gone)
            world.agents.silent.clear()
            await world.until(lambda: world.agents.holders(UID) == ["node-b"])
            assert world.agents.at("node-a").orders[1:] == []
            assert world.web.status.epoch == 2

    async def test_a_held_copy_goes_on_and_a_source_that_returns_decides_nothing(
        self, word: Callable[[OperatorWorld], None]
    ) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world)
            gone = world.cluster.find(NodeAgent, "node-a", None)
            assert gone is not None
            world.agents.stop_at = SideState.FROZEN
            world.move("node-b")
            source, target = world.agents.at("node-a"), world.agents.at("node-b")
            await world.until(
                lambda: [d.state for d in source.outgoing_migrations.values()] == [SideState.FROZEN]
            )
            world.agents.silent.add("node-a")
            [move] = world.moves
            target.records[UID].state = RecordState.HELD
            target._arrive(move.metadata.uid, SideState.HELD)
            source.reboot()
            source.records[UID].state = RecordState.STOPPED
            word(world)
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            world.cluster.put(gone)
            taint(world)
            world.agents.silent.clear()
            await world.until(lambda: world.web.status.node == "node-b")
            await world.until(lambda: world.agents.holders(UID) == ["node-b"])
            assert [m.status.phase for m in world.moves] == [MigrationPhase.SUCCEEDED]
            assert world.web.status.epoch == 2

    async def test_what_was_not_held_yet_is_started_anew_on_the_target(
        self, word: Callable[[OperatorWorld], None]
    ) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world)
            world.agents.stop_at = SideState.COPYING
            world.move("node-b")
            await world.until(lambda: ("node-a", "begin_outgoing") in world.agents.calls)
            world.agents.silent.add("node-a")
            world.agents.at("node-a").reboot()
            world.agents.at("node-a").records[UID].state = RecordState.STOPPED
            word(world)
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            assert world.moves[0].status.reason == "NodeFenced"
            assert world.web.status.epoch == 3  # above what the target could have become


async def test_a_taint_does_not_fence_a_node_that_answers() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        taint(world, "node-a", "node-b")
        world.move("node-b")
        await world.until(lambda: words(world, "Reconciling")[0] == "NodeFenced")
        assert world.agents.holders(UID) == ["node-a"]
        taint(world, "node-a")
        succeeded = [MigrationPhase.SUCCEEDED]
        await world.until(lambda: [m.status.phase for m in world.moves] == succeeded)
        assert world.agents.runners(UID) == ["node-b"]


class TestWhatCouldNotBeWritten:
    """An owner or a fence counts from when it is written down, not from when that was tried."""

    async def test_no_agent_is_ordered_before_the_new_owner_is_recorded(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world, target_node=None)
            world.agents.silent.add("node-a")
            await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
            world.agents.at("node-a").reboot()
            world.agents.at("node-a").records[UID].state = RecordState.STOPPED
            world.cluster.failing["apply_status"] = Unreachable("away", reason="Unreachable")
            taint(world, "node-a")
            await world.settle(200)
            assert world.agents.at("node-b").orders == []
            world.cluster.failing.clear()
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            assert (world.web.status.node, world.web.status.epoch) == ("node-b", 2)

    async def test_a_claim_that_failed_is_not_written_later_by_the_way(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world, target_node=None)
            world.agents.silent.add("node-a")
            await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
            world.cluster.failing["apply_status"] = Unreachable("away", reason="Unreachable")
            taint(world, "node-a")
            await world.settle(200)
            taint(world)
            world.agents.silent.clear()
            await world.settle()
            world.cluster.failing.clear()
            await world.until(lambda: world.web.status.phase == PlacementPhase.RUNNING)
            await world.settle()
            assert (world.web.status.node, world.web.status.epoch) == ("node-a", 1)
            assert world.agents.holders(UID) == ["node-a"]

    async def test_a_held_copy_runs_only_once_the_fence_is_written_down(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await held_on_b(world)
            world.cluster.failing["apply_status"] = Unreachable("away", reason="Unreachable")
            taint(world, "node-a")
            await world.settle(200)
            assert world.agents.runners(UID) == []
            world.cluster.failing.clear()
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            assert source_was_fenced(world.moves[0])


async def held_on_b(world: OperatorWorld) -> None:
    """node-a has lost power in the middle of a handover to node-b."""
    await running_on_a(world)
    world.agents.stop_at = SideState.FROZEN
    world.move("node-b")
    source, target = world.agents.at("node-a"), world.agents.at("node-b")
    await world.until(
        lambda: [d.state for d in source.outgoing_migrations.values()] == [SideState.FROZEN]
    )
    world.agents.silent.add("node-a")
    [move] = world.moves
    target.records[UID].state = RecordState.HELD
    target._arrive(move.metadata.uid, SideState.HELD)
    source.reboot()
    source.records[UID].state = RecordState.STOPPED


async def test_an_owner_that_awaits_its_order_gets_none_while_another_claims_it() -> None:
    """A backup that is older than the fencing is restored, and the fenced node comes back."""
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world, target_node=None)
        backup = world.web
        world.agents.silent.add("node-a")
        await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
        world.agents.at("node-a").reboot()
        taint(world, "node-a")
        world.agents.at("node-a").records[UID].state = RecordState.STOPPED
        await world.until(lambda: world.agents.runners(UID) == ["node-b"])
        await world.kill()
        world.cluster.put(backup)
        world.agents.silent.clear()
        world.start()
        await world.until(lambda: disputed(world))
        await world.settle()
        assert world.agents.runners(UID) == ["node-b"]
        assert len(world.agents.at("node-a").orders) == 1


async def fenced(world: OperatorWorld, **spec: object) -> None:
    """The container was on node-a, which is fenced, and now runs on node-b."""
    await running_on_a(world, target_node=None, **spec)
    world.agents.silent.add("node-a")
    await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
    world.agents.at("node-a").reboot()
    world.agents.at("node-a").records[UID].state = RecordState.STOPPED
    taint(world, "node-a")
    await world.until(lambda: world.agents.runners(UID) == ["node-b"])
    await world.until(lambda: world.web.status.node == "node-b")


class TestACopyThatCannotBeRemoved:
    REFUSAL = Refused("no room for the journal", reason="JournalUnwritable")

    async def test_it_holds_up_nothing_that_the_owner_is_to_do(self) -> None:
        async with OperatorWorld("node-a", "node-b", "node-c") as world:
            await fenced(world)
            world.agents.failing["node-a", "remove_container"] = self.REFUSAL
            taint(world)
            world.agents.silent.clear()
            await world.until(lambda: ("node-a", "remove_container") in world.agents.calls)
            world.agents.at("node-b").reboot()
            await world.until(lambda: world.agents.at("node-b").records[UID].boot_seen)
            world.move("node-c")
            await world.until(lambda: world.agents.runners(UID) == ["node-c"])
            world.agents.failing.clear()
            await world.until(lambda: world.agents.holders(UID) == ["node-c"])

    async def test_it_is_removed_before_the_container_moves_back_to_its_node(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await fenced(world)
            world.agents.failing["node-a", "remove_container"] = self.REFUSAL
            taint(world)
            world.agents.silent.clear()
            world.move("node-a")
            await world.until(lambda: ("node-a", "remove_container") in world.agents.calls)
            await world.settle()
            assert world.moves == []
            world.agents.failing.clear()
            await world.until(lambda: world.agents.runners(UID) == ["node-a"])


async def test_a_pending_placement_is_not_new_to_a_later_operator() -> None:
    """Its empty status may be a backup's, from before the container was placed."""
    async with OperatorWorld("node-a", "node-b") as world:
        world.create(target_node="nowhere", container={"image": "web"})
        await world.until(lambda: words(world, "Reconciling")[0] == "NodeNotFound")
        backup = world.web
        world.move("node-a")
        await world.until(lambda: world.agents.runners(UID) == ["node-a"])
        await world.kill()
        spec = backup.spec.model_copy(update={"target_node": "node-b"})
        world.cluster.put(backup.model_copy(update={"spec": spec}))
        world.agents.silent.add("node-a")
        world.start()
        await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
        await world.settle()
        assert world.agents.holders(UID) == ["node-a"]
        world.agents.silent.clear()
        await world.until(lambda: world.web.status.node == "node-a")


class TestAHeldCopyThatWasOutlived:
    """Source and target of a handover were fenced; the container was started anew on node-c."""

    async def outlived(self, world: OperatorWorld) -> None:
        await held_on_b(world)
        world.agents.silent.add("node-b")
        await world.settle(200)
        taint(world, "node-a", "node-b")
        world.move("node-c")
        await world.until(lambda: world.agents.runners(UID) == ["node-c"])
        taint(world)

    async def test_it_is_thrown_away_although_its_source_has_forgotten_it(self) -> None:
        async with OperatorWorld("node-a", "node-b", "node-c") as world:
            await self.outlived(world)
            world.agents.silent.discard("node-a")
            await world.until(lambda: "node-a" not in world.agents.holders(UID))
            world.agents.silent.clear()
            await world.until(lambda: world.agents.holders(UID) == ["node-c"])
            assert world.agents.runners(UID) == ["node-c"]

    async def test_a_deletion_ends_it_too(self) -> None:
        async with OperatorWorld("node-a", "node-b", "node-c") as world:
            await self.outlived(world)
            await world.kill()
            del world.agents.at("node-c").records[UID]
            world.agents.silent.clear()
            await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
            world.start()
            await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
            assert world.agents.holders(UID) == []


async def test_a_held_copy_that_may_still_be_released_is_not_asked_about_in_a_hurry() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await running_on_a(world)
        lies(world, "node-b", epoch=2)
        held = world.agents.at("node-b").records[UID]
        held.state, held.migration = RecordState.HELD, "never-was"
        await world.settle(100)
        before, began = len(world.agents.calls), world.clock.monotonic()
        await world.until(lambda: world.clock.monotonic() > began + 60)
        asked = {call for node, call in world.agents.calls[before:] if node == "node-b"}
        assert asked == {"containers"}
        assert world.agents.holders(UID) == ["node-a", "node-b"]


class TestDeletion:
    async def test_a_stranger_that_refuses_holds_up_nothing(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world)
            lies(world, "node-b", epoch=7)
            world.agents.failing["node-b", "remove_container"] = Refused("no", reason="Refused")
            await world.until(lambda: disputed(world))
            await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
            await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
            assert world.agents.holders(UID) == ["node-b"]
            assert ("node-b", "remove_container") in world.agents.calls

    async def test_a_stranger_that_obeys_is_cleared_too(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await running_on_a(world)
            lies(world, "node-b", epoch=7)
            await world.until(lambda: disputed(world))
            await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
            await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
            assert world.agents.holders(UID) == []

    async def test_a_former_owner_that_refuses_is_waited_for_while_the_owner_ends(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await fenced(world)
            refusal = Refused("no", reason="Refused")
            world.agents.failing["node-a", "remove_container"] = refusal
            taint(world)
            world.agents.silent.clear()
            await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
            await world.until(lambda: world.agents.holders(UID) == ["node-a"])
            await world.settle()
            assert world.cluster.find(ContainerPlacement, "web") is not None
            world.agents.failing.clear()
            await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
            assert world.agents.holders(UID) == []

    async def test_a_node_that_was_fenced_and_is_no_more_is_waited_for(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await fenced(world)
            taint(world)
            await world.cluster.delete(ContainerPlacement, name="web", namespace="default")
            await world.until(lambda: world.agents.holders(UID) == ["node-a"])
            await world.until(lambda: "node-a" in words(world, "Reconciling")[1])
            world.agents.silent.clear()
            await world.until(lambda: world.cluster.find(ContainerPlacement, "web") is None)
            assert world.agents.holders(UID) == []


class TestACompletedContainer:
    """restartPolicy: Never, and its main process has ended."""

    ONCE: ClassVar = {**CONTAINER, "restartPolicy": "Never"}

    async def completed(self, world: OperatorWorld) -> None:
        await running_on_a(world, target_node=None, container=self.ONCE)
        world.agents.at("node-a").records[UID].state = RecordState.STOPPED
        await world.until(lambda: world.web.status.phase == PlacementPhase.STOPPED)

    async def fence(self, world: OperatorWorld) -> None:
        world.agents.silent.add("node-a")
        await world.until(lambda: words(world, "Reconciling")[0] == "NodeLost")
        await world.restart()
        taint(world, "node-a")
        await world.until(lambda: UID in world.agents.at("node-b").records)

    async def test_fencing_its_node_does_not_run_it_again(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.completed(world)
            await self.fence(world)
            await world.until(lambda: world.web.status.phase == PlacementPhase.STOPPED)
            await world.settle()
            assert world.agents.runners(UID) == []
            assert world.web.status.node == "node-b"

    async def test_stopped_and_then_running_does(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.completed(world)
            await self.fence(world)
            world.cluster.edit(ContainerPlacement, "web", state="Stopped")
            await world.until(lambda: len(world.agents.at("node-b").orders) == 2)
            world.cluster.edit(ContainerPlacement, "web", state="Running")
            await world.until(lambda: world.agents.runners(UID) == ["node-b"])
            await world.settle()
            container = world.web.status.container
            assert container is not None
            assert not container.completed

    async def test_a_node_that_has_lost_its_record_does_not_run_it_again(self) -> None:
        async with OperatorWorld("node-a", "node-b") as world:
            await self.completed(world)
            del world.agents.at("node-a").records[UID]
            await world.until(lambda: UID in world.agents.at("node-a").records)
            await world.settle()
            assert world.agents.runners(UID) == []
