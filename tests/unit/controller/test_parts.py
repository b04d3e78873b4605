"""The smaller parts of the operator: directory, fleet, statuses, finalizers, leases, addresses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from loguru import logger

from fakes.agents import FakeAgents
from fakes.api_server import FakeApiServer, holder
from fakes.clock import FakeClock
from fakes.cluster import FakeCluster, FakeData
from fakes.resources import NOW, UID, ended, migration, node_agent, placement, report
from transship.agentapi.containers import ContainerReport
from transship.api import FINALIZER
from transship.api.address_pool import AddressPool
from transship.api.container import Volume
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement, PlacementPhase, PlacementStatus
from transship.common.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    TransshipError,
    Unreachable,
)
from transship.controller import agent_poller as agent_poller_module
from transship.controller.addresses.claims import AddressBook
from transship.controller.agent_poller import AgentPoller
from transship.controller.cache import ResourceCache
from transship.controller.handlers import parsed
from transship.controller.leader import GIVE_UP_SECONDS, LEASE_NAME, Leadership, LeadersTransport
from transship.controller.placement.resolver import Resolver
from transship.controller.ports import DataKind
from transship.controller.reconcile.finalizers import add_finalizer, removal_patch, remove_finalizer
from transship.controller.reconcile.shutdown import ProcessLifetime, wait_for_any
from transship.controller.reconcile.status_writer import StatusWriter
from transship.kube.client import KubeClient
from transship.kube.leases import Leases
from transship.kube.listing import Listing, Unreadable
from transship.kube.transport import Request


def versioned(resource, version: int, **metadata):
    update = {"resource_version": str(version), **metadata}
    meta = resource.metadata.model_copy(update=update)
    return resource.model_copy(update={"metadata": meta})


def with_status(made: ContainerPlacement, phase: PlacementPhase) -> ContainerPlacement:
    return made.model_copy(update={"status": PlacementStatus(phase=phase)})


class TestResourceCache:
    def test_an_older_version_does_not_replace_a_newer_one(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(with_status(placement(), PlacementPhase.RUNNING), 12))
        cache.put(versioned(with_status(placement(), PlacementPhase.PENDING), 9))
        found = cache.placement(UID)
        assert found is not None
        assert found.status.phase == PlacementPhase.RUNNING

    def test_our_own_status_writes_wake_nobody_and_edits_do(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(), 1))
        wake = cache.wake_of(UID)
        cache.put(versioned(with_status(placement(), PlacementPhase.RUNNING), 2))
        assert not wake.is_set()
        cache.put(versioned(placement(), 3, generation=2))
        assert wake.is_set()

    def test_a_migration_wakes_its_placement_with_every_change(self) -> None:
        cache = ResourceCache()
        wake = cache.wake_of(UID)
        cache.put(versioned(migration(), 1))
        assert wake.is_set()
        wake.clear()
        cache.put(versioned(ended(migration(), good=True), 2))
        assert wake.is_set()
        wake.clear()
        cache.drop(migration())
        assert wake.is_set()
        assert cache.migrations_of(UID) == ()

    def test_a_heartbeat_wakes_nobody_and_a_cordon_does(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(target_node="node-a"), 1))
        cache.put(versioned(node_agent("node-a"), 1))
        wake = cache.wake_of(UID)
        wake.clear()
        cache.put(versioned(node_agent("node-a", capacity={"freeMemoryBytes": 5}), 2))
        assert not wake.is_set()
        cache.put(versioned(node_agent("node-a", unschedulable=True), 3))
        assert wake.is_set()

    def test_a_list_drops_only_what_was_known_before_it_was_asked_for(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(migration(attempt=1), 1))
        known = cache.uids(type(migration()))
        cache.put(versioned(migration(attempt=2), 2))
        cache.keep_only(type(migration()), Listing(()), instead_of=known)
        assert [m.spec.attempt for m in cache.migrations_of(UID)] == [2]

    def test_what_a_list_has_but_cannot_be_read_stays_as_it_was_known(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(), 1))
        hidden = Unreadable("ContainerPlacement", "web", "default", UID, "2", "spec: missing")
        found = Listing[ContainerPlacement]((), (hidden,))
        cache.keep_only(ContainerPlacement, found, instead_of=frozenset({UID}))
        assert cache.placement(UID) is not None
        gone = Listing[ContainerPlacement](())
        cache.keep_only(ContainerPlacement, gone, instead_of=frozenset({UID}))
        assert cache.placement(UID) is None

    def test_a_placement_that_nobody_took_on_is_noticed_after_minutes(self) -> None:
        cache = ResourceCache()
        nobody: frozenset[str] = frozenset()
        cache.put(versioned(placement(), 1, creation_timestamp=NOW, finalizers=()))
        assert cache.without_loop(at=1000.0, with_loop=nobody) == []
        assert cache.without_loop(at=1060.0, with_loop=nobody) == []
        assert cache.without_loop(at=1300.0, with_loop=nobody) == ["web"]
        assert cache.without_loop(at=1300.0, with_loop=frozenset({UID})) == []

    def test_loads_count_moves_under_way(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(target_node="node-a"), 1))
        cache.put(versioned(migration(target="node-b"), 1))
        cache.put(versioned(ended(migration(epoch=2, target="node-c"), good=True), 1))
        assert cache.loads() == {"node-a": 1, "node-b": 1}


class TestAgentPoller:
    async def test_an_agent_is_silent_only_after_a_while_and_its_sightings_end(self) -> None:
        cache, clock, agents = ResourceCache(), FakeClock(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=clock)
        await agent_poller.ask("node-a")
        agents.silent.add("node-a")
        await agent_poller.ask("node-a")
        assert not agent_poller.silent("node-a")
        clock.pass_time(6)
        await agent_poller.ask("node-a")
        assert agent_poller.silent("node-a")
        agents.silent.clear()
        await agent_poller.ask("node-a")
        assert not agent_poller.silent("node-a")

    async def test_what_is_said_of_a_container_wakes_its_loop_once(self) -> None:
        cache, agents = ResourceCache(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=FakeClock())
        said = (report(),)

        async def containers():
            return said

        agents.at("node-a").containers = containers  # type: ignore[method-assign]
        wake = cache.wake_of(UID)
        await agent_poller.ask("node-a")
        assert wake.is_set()
        wake.clear()
        await agent_poller.ask("node-a")
        assert not wake.is_set()
        assert [s.node for s in agent_poller.reported_copies(UID)] == ["node-a"]

    async def test_what_was_polled_before_is_not_told_after_what_was_heard_since(self) -> None:
        cache, agents = ResourceCache(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=FakeClock())

        async def containers():
            return (report(ready=False),)

        agents.at("node-a").containers = containers  # type: ignore[method-assign]
        await agent_poller.ask("node-a")
        agent_poller.note("node-a", UID, report(ready=True))
        assert [s.report.ready for s in agent_poller.reported_copies(UID)] == [True]
        agent_poller.note("node-a", UID, None)
        assert agent_poller.reported_copies(UID) == ()

    async def test_a_list_that_is_older_than_a_single_answer_does_not_undo_it(self) -> None:
        """A new owner was asked for its container while the poll of its node was on its way."""
        cache = ResourceCache()
        cache.put(node_agent("node-a"))
        newer = report(ready=True)

        class Slow:
            async def containers(self) -> tuple[ContainerReport, ...]:
                agent_poller.note("node-a", UID, newer)
                return (report(ready=False),)

        class ToSlow:
            def to(self, agent: NodeAgent) -> Any:
                return Slow()

        agent_poller = AgentPoller(cache, ToSlow(), clock=FakeClock())
        woken = cache.wake_of(UID)
        await agent_poller.ask("node-a")
        assert [s.report for s in agent_poller.reported_copies(UID)] == [newer]
        assert woken.is_set()

    async def test_an_answer_that_nobody_thought_of_is_none_and_the_next_one_counts(self) -> None:
        cache, clock, agents = ResourceCache(), FakeClock(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=clock)
        agents.failing["node-a", "containers"] = ValueError("what is this?")
        await agent_poller.ask("node-a")
        clock.pass_time(6)
        await agent_poller.ask("node-a")
        assert agent_poller.silent("node-a")
        agents.failing.clear()
        await agent_poller.ask("node-a")
        assert not agent_poller.silent("node-a")

    async def test_a_poll_that_has_ended_is_begun_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agent_poller_module, "POLL_SECONDS", 0.004)
        cache, agents = ResourceCache(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=FakeClock())
        following = asyncio.create_task(agent_poller.run())
        await asyncio.sleep(0)
        [poll] = [t for t in asyncio.all_tasks() if t.get_name() == "poll node-a"]
        poll.cancel()
        await asyncio.wait([poll])
        asked = len(agents.calls)
        async with asyncio.timeout(5):
            while len(agents.calls) == asked:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        following.cancel()
        await asyncio.wait([following])

    def test_a_node_is_gone_for_good_only_after_it_has_been_missing_for_long(self) -> None:
        cache, clock = ResourceCache(), FakeClock()
        agent_poller = AgentPoller(cache, FakeAgents(), clock=clock)
        assert not agent_poller.gone("node-a")
        clock.pass_time(61)
        assert agent_poller.gone("node-a")

    async def test_a_tainted_node_is_fenced_while_its_agent_does_not_answer(self) -> None:
        cache, clock, agents = ResourceCache(), FakeClock(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=clock)
        cache.put_out_of_service({"node-a", "node-b"})
        assert not agent_poller.fenced("node-a")  # nobody has asked it yet
        assert agent_poller.fenced("node-b")  # it has no agent that could answer
        assert not agent_poller.fenced("node-c")
        await agent_poller.ask("node-a")
        agents.silent.add("node-a")
        clock.pass_time(6)
        await agent_poller.ask("node-a")
        assert agent_poller.fenced("node-a")
        agents.silent.clear()
        await agent_poller.ask("node-a")
        assert not agent_poller.fenced("node-a")
        assert agent_poller.nodes()[0].out_of_service

    async def test_whom_nobody_has_heard_may_have_anything(self) -> None:
        cache, clock, agents = ResourceCache(), FakeClock(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=clock)
        assert agent_poller.unreported_nodes() == {"node-a"}
        await agent_poller.ask("node-a")
        assert agent_poller.unreported_nodes() == frozenset()
        agents.silent.add("node-a")
        clock.pass_time(6)
        await agent_poller.ask("node-a")
        assert agent_poller.unreported_nodes() == {"node-a"}
        cache.put_out_of_service({"node-a"})
        assert agent_poller.unreported_nodes() == frozenset()

    def test_a_taint_wakes_whom_it_concerns(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(target_node="node-a"), 1))
        wake = cache.wake_of(UID)
        wake.clear()
        cache.note_out_of_service("node-a", tainted=True)
        assert cache.is_out_of_service("node-a")
        assert wake.is_set()
        wake.clear()
        cache.note_out_of_service("node-a", tainted=True)
        assert not wake.is_set()
        cache.note_out_of_service("node-a", tainted=False)
        assert not cache.is_out_of_service("node-a")

    def test_a_node_whose_agent_cannot_be_read_is_never_gone(self) -> None:
        cache, clock = ResourceCache(), FakeClock()
        agent_poller = AgentPoller(cache, FakeAgents(), clock=clock)
        hidden = Unreadable("NodeAgent", "node-a", None, "uid-node-a", "2", "status: odd")
        found = Listing[NodeAgent]((), (hidden,))
        cache.keep_only(NodeAgent, found, instead_of=frozenset())
        cache.note_unreadable(NodeAgent, "node-b")
        for _ in range(2):
            clock.pass_time(61)
            assert not agent_poller.gone("node-a")
            assert not agent_poller.gone("node-b")
        cache.keep_only(NodeAgent, Listing[NodeAgent](()), instead_of=frozenset())
        assert not agent_poller.gone("node-a")
        clock.pass_time(61)
        assert agent_poller.gone("node-a")
        cache.put(node_agent("node-a"))
        assert not agent_poller.gone("node-a")
        with pytest.raises(Unreachable):
            agent_poller.agent("node-z")


class TestStatusWriter:
    def writer(self, cluster: FakeCluster):
        made = cluster.put(placement())
        return made, StatusWriter(made, made.status, cluster=cluster, cache=ResourceCache())

    async def test_many_offers_become_few_writes_and_the_newest_wins(self) -> None:
        cluster = FakeCluster()
        _, writer = self.writer(cluster)
        for epoch in range(1, 50):
            writer.offer(PlacementStatus(epoch=epoch))
        await writer.flush()
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.status.epoch == 49
        assert cluster.status_writes <= 2

    async def test_an_unchanged_status_is_not_written(self) -> None:
        cluster = FakeCluster()
        made, writer = self.writer(cluster)
        writer.offer(made.status)
        await writer.flush()
        assert cluster.status_writes == 0

    async def test_a_write_that_fails_is_repeated(self) -> None:
        cluster = FakeCluster()
        _, writer = self.writer(cluster)
        cluster.failing["apply_status"] = Unreachable("away")
        writer.offer(PlacementStatus(epoch=3))
        await asyncio.sleep(0.02)
        cluster.failing.clear()
        await writer.flush()
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.status.epoch == 3

    async def test_a_claim_conflicts_when_the_object_has_changed(self) -> None:
        cluster = FakeCluster()
        made, writer = self.writer(cluster)
        cluster.edit(ContainerPlacement, "web", target_node="node-b")
        with pytest.raises(Conflict):
            await writer.write(
                PlacementStatus(epoch=1), resource_version=made.metadata.resource_version
            )

    async def test_nothing_is_written_to_an_object_that_is_gone(self) -> None:
        cluster = FakeCluster()
        _, writer = self.writer(cluster)
        cluster.objects.clear()
        writer.offer(PlacementStatus(epoch=3))
        await writer.flush()
        await writer.close()
        assert cluster.status_writes == 0


class TestFinalizers:
    def test_the_patch_holds_for_this_object_and_these_finalizers_only(self) -> None:
        meta = placement(metadata={"uid": "u", "finalizers": ["other"]}).metadata
        assert removal_patch(meta) == []
        patch = removal_patch(meta.model_copy(update={"finalizers": ("other", FINALIZER)}))
        assert {"op": "test", "path": "/metadata/uid", "value": "u"} in patch
        assert {"op": "remove", "path": "/metadata/finalizers/1"} in patch

    async def test_other_finalizers_stay_even_when_they_came_meanwhile(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement())
        cluster.put(known, finalizers=("new", FINALIZER))
        await remove_finalizer(known, cluster=cluster)
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.metadata.finalizers == ("new",)

    async def test_a_later_object_of_the_same_name_keeps_its_own(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement())
        cluster.put(placement(uid="another"))
        await remove_finalizer(known, cluster=cluster)
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.metadata.finalizers == (FINALIZER,)

    async def test_one_that_others_change_all_the_time_is_not_taken_for_let_go(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement())
        cluster.failing["json_patch"] = Conflict("others were faster")
        with pytest.raises(Conflict):
            await remove_finalizer(known, cluster=cluster)

    async def test_ours_is_put_beside_those_that_came_meanwhile(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement(metadata={"finalizers": []}))
        cluster.put(known, finalizers=("new",))
        held = await add_finalizer(known, cluster=cluster)
        assert held is not None
        assert held.metadata.finalizers == ("new", FINALIZER)

    async def test_ours_is_not_put_on_what_is_being_deleted_or_gone(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement(metadata={"finalizers": ["new"]}))
        await cluster.delete(ContainerPlacement, name="web", namespace="default")
        held = await add_finalizer(known, cluster=cluster)
        assert held is not None
        assert held.metadata.finalizers == ("new",)
        cluster.put(placement(uid="another"))
        assert await add_finalizer(known, cluster=cluster) is None
        cluster.objects.clear()
        assert await add_finalizer(known, cluster=cluster) is None


class TestHandlers:
    def test_an_object_that_cannot_be_read_is_left_alone(self) -> None:
        assert parsed(ContainerPlacement, {"metadata": {"name": "x"}}) is None
        assert parsed(NodeAgent, node_agent("node-a").dump()) is not None


class Lease:
    def __init__(self) -> None:
        self.held_by_another = False
        self.renewals = 0

    async def renew(self, name: str, *, holder: str, duration_seconds: int) -> object:
        if self.held_by_another:
            raise Refused("held", reason="LeaseHeld")
        self.renewals += 1
        return None

    async def release(self, name: str, *, holder: str) -> bool:
        return False


class TestLeadership:
    async def test_it_waits_for_the_lease_and_ends_when_it_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, lease = FakeClock(), Lease()

        async def sleep(seconds: float) -> None:
            clock.pass_time(seconds)
            lease.held_by_another = not lease.held_by_another if clock.seconds < 3 else True

        monkeypatch.setattr("transship.controller.leader.asyncio.sleep", sleep)
        lease.held_by_another = True
        leadership = Leadership(lease, clock=clock, identity="me")
        await leadership.acquire()
        assert lease.renewals == 1
        with pytest.raises(Refused, match="held"):
            await leadership.keep()
        assert clock.seconds < 15
        with pytest.raises(Refused, check=lambda e: e.reason == "NotLeading"):
            leadership.require()

    @pytest.mark.parametrize(
        ("failing", "level", "word"),
        [
            (None, "INFO", "operator-1 holds it"),
            (Unreachable("connection refused"), "WARNING", "connection refused"),
            (Refused("leases is forbidden", reason="Forbidden"), "ERROR", "leases is forbidden"),
            (NotFound("no namespace transship-system"), "ERROR", "no namespace"),
        ],
    )
    async def test_the_log_says_once_why_the_lease_is_not_ours(
        self,
        failing: TransshipError | None,
        level: str,
        word: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        lines: list[str] = []
        clock, server = FakeClock(), FakeApiServer()
        leases = Leases(KubeClient(server), clock=clock)
        await leases.renew(LEASE_NAME, holder="operator-1", duration_seconds=15)
        server.failing = failing

        async def sleep(seconds: float) -> None:
            clock.pass_time(seconds)
            if clock.seconds > 8:
                server.failing = None
                clock.pass_time(15)

        monkeypatch.setattr("transship.controller.leader.asyncio.sleep", sleep)
        sink = logger.add(
            lambda line: lines.append(str(line)), format="{level} {message} {extra}", level="INFO"
        )
        await Leadership(leases, clock=clock, identity="me").acquire()
        logger.remove(sink)
        told = [line for line in lines if "the lease is not ours" in line]
        assert told[0].startswith(level)
        assert word in told[0]
        assert len([line for line in told if word in line]) == 1

    async def test_a_late_renewal_of_its_own_keeps_nobody_from_releasing(self) -> None:
        class Changing(FakeApiServer):
            changed = False

            async def send(self, request: Request) -> dict[str, Any]:
                if request.method == "PUT" and not self.changed:
                    self.changed = True
                    raise Conflict("the object has been modified")
                return await super().send(request)

        clock, server = FakeClock(), Changing()
        leases = Leases(KubeClient(server), clock=clock)
        leadership = Leadership(leases, clock=clock, identity="me")
        await leadership.acquire()
        await leadership.release()
        assert server.changed
        assert await holder(leases, LEASE_NAME) == ""

    async def test_who_was_stopped_for_longer_than_its_lease_sends_nothing_when_it_wakes_up(
        self,
    ) -> None:
        clock, server = FakeClock(), FakeApiServer()
        leadership = Leadership(Lease(), clock=clock, identity="me")
        cluster = KubeClient(LeadersTransport(server, leadership))
        with pytest.raises(Refused):
            await cluster.create(placement())
        await leadership.acquire()
        await cluster.create(placement())
        clock.pass_time(GIVE_UP_SECONDS)  # SIGSTOP, or a suspended machine: no task has run
        with pytest.raises(Refused):
            await cluster.create(placement("another"))
        assert len(server.objects) == 1
        await cluster.get(ContainerPlacement, name="web", namespace="default")


class TestAddressBook:
    def cluster(self) -> FakeCluster:
        cluster = FakeCluster()
        pool = {"metadata": {"name": "default"}, "spec": {"cidr": "10.0.0.0/29"}}
        cluster.put(AddressPool.model_validate(pool))
        return cluster

    async def test_two_operators_never_give_out_the_same_address(self) -> None:
        cluster = self.cluster()
        books = [AddressBook(cluster), AddressBook(cluster)]
        wanted = [placement(f"web-{n}", uid=f"uid-{n}") for n in range(6)]
        given = await asyncio.gather(*(books[n % 2].take(p) for n, p in enumerate(wanted)))
        assert len(set(given)) == 6

    async def test_what_is_given_back_can_be_taken_again(self) -> None:
        book = AddressBook(self.cluster())
        assert await book.take(placement()) == ("10.0.0.1",)
        await book.give_back(placement())
        await book.give_back(placement())
        assert await book.take(placement(uid="another")) == ("10.0.0.1",)

    async def test_a_missing_pool_is_named(self) -> None:
        book = AddressBook(FakeCluster())
        with pytest.raises(NotFound) as caught:
            await book.take(placement(network={"addressPool": "blue"}))
        assert caught.value.reason == "PoolNotFound"
        await book.give_back(placement(network={"addressPool": "blue"}))

    async def test_the_size_is_told_before_anybody_asks(self) -> None:
        cluster = self.cluster()
        cluster.put(*cluster.all(AddressPool), generation=1)
        await AddressBook(cluster).update_sizes(now=NOW)
        assert cluster.all(AddressPool)[0].status.size == 6

    async def test_a_pool_whose_status_cannot_be_written_keeps_no_other_from_its_own(self) -> None:
        cluster = self.cluster()
        another = {"metadata": {"name": "another"}, "spec": {"cidr": "10.0.1.0/29"}}
        cluster.put(AddressPool.model_validate(another))
        for pool in cluster.all(AddressPool):
            cluster.put(pool, generation=1)
        cluster.failing["apply_status default"] = InvalidInput("status: invalid")
        await AddressBook(cluster).update_sizes(now=NOW)
        sizes = {pool.metadata.name: pool.status.size for pool in cluster.all(AddressPool)}
        assert sizes["another"] == 6


class TestResolver:
    async def order(self, data: FakeData, **spec):
        made = placement(**spec)
        status = PlacementStatus(address="10.0.0.5")
        return await Resolver(data).order(made, status, node="node-a", epoch=1)

    async def test_files_of_volumes_carry_their_contents(self) -> None:
        data = FakeData()
        data.contents[DataKind.SECRET, "keys"] = {"a.pem": b"\x00\xff", "b.pem": b"b"}
        volumes = [
            {"name": "all", "secret": {"secretName": "keys"}},
            {"name": "one", "secret": {"secretName": "keys",
                                       "items": [{"key": "b.pem", "path": "x/b"}]}},
            {"name": "none", "emptyDir": {}},
        ]  # fmt: skip
        order = await self.order(data, volumes=volumes)
        files = {v.volume.name: {f.path: f.content for f in v.files} for v in order.volumes}
        assert files == {
            "all": {"a.pem": b"\x00\xff", "b.pem": b"b"}, "one": {"x/b": b"b"}, "none": {}
        }  # fmt: skip
        assert isinstance(order.volumes[0].volume, Volume)

    async def test_fields_of_the_placement_are_known_by_their_pod_names(self) -> None:
        wanted = ("metadata.name", "metadata.namespace", "metadata.uid", "status.podIP")
        env = [
            {"name": f"V{n}", "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for n, path in enumerate(wanted)
        ]
        order = await self.order(FakeData(), container={"image": "web", "env": env})
        values = [variable.value for variable in order.container.env]
        assert values == ["web", "default", UID, "10.0.0.5"]

    async def test_an_unknown_field_says_which_there_are(self) -> None:
        env = [{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]
        with pytest.raises(InvalidInput) as caught:
            await self.order(FakeData(), container={"image": "web", "env": env})
        assert "spec.nodeName" in caught.value.message

    async def test_only_what_the_spec_itself_says_is_expanded_and_only_once(self) -> None:
        data = FakeData()
        data.contents[DataKind.SECRET, "login"] = {"word": b"pa$$word$(USER)"}
        secret = {"secretKeyRef": {"name": "login", "key": "word"}}
        env = [
            {"name": "USER", "value": "me"},
            {"name": "WORD", "valueFrom": secret},
            {"name": "LINE", "value": "$(USER):$(WORD)"},
        ]
        args = ["$(LINE)", "$$(USER)", "$(PATH)", "$(HOSTNAME)"]
        order = await self.order(data, container={"image": "web", "env": env, "args": args})
        values = {variable.name: variable.value for variable in order.container.env}
        assert values == {
            "USER": "me", "WORD": "pa$$word$(USER)", "LINE": "me:pa$$word$(USER)"
        }  # fmt: skip
        assert order.container.args == (
            "me:pa$$word$(USER)", "$(USER)", "$(PATH)", "$(HOSTNAME)"
        )  # fmt: skip

    async def test_a_missing_key_is_named_unless_it_is_optional(self) -> None:
        data = FakeData()
        data.contents[DataKind.CONFIG_MAP, "words"] = {"hello": b"x"}

        def env(**more):
            ref = {"name": "words", "key": "bye", **more}
            return {"image": "web", "env": [{"name": "V", "valueFrom": {"configMapKeyRef": ref}}]}

        with pytest.raises(NotFound) as caught:
            await self.order(data, container=env())
        assert caught.value.hint == "its keys are hello"
        order = await self.order(data, container=env(optional=True))
        assert order.container.env == ()


class TestLifetime:
    async def test_a_waiting_is_ended_by_any_event_or_by_time(self) -> None:
        never, set_already = asyncio.Event(), asyncio.Event()
        set_already.set()
        await wait_for_any(never, set_already, seconds=60)
        await wait_for_any(never, seconds=0.001)

    async def test_a_process_that_ends_is_waited_for_by_none_of_its_loops(self) -> None:
        stop = asyncio.Event()
        lifetime = ProcessLifetime(stop)
        assert not lifetime.over
        waiting = asyncio.create_task(lifetime.wait(asyncio.Event(), seconds=60))
        await asyncio.sleep(0)
        stop.set()
        await asyncio.wait_for(waiting, timeout=1)
        assert lifetime.over

    async def test_a_loop_that_waits_cannot_swallow_its_cancel(self) -> None:
        """kopf cancels every task at its end, those that only wait for an event before us."""

        async def loop() -> None:
            while True:
                await wait_for_any(asyncio.Event(), seconds=60)

        before = asyncio.all_tasks()
        task = asyncio.create_task(loop())
        await asyncio.sleep(0.001)
        for inner in asyncio.all_tasks() - before - {task}:
            inner.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()
