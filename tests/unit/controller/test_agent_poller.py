"""What agents report, and when one is silent, fenced or gone."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import pytest

from fakes.agents import FakeAgents
from fakes.clock import FakeClock
from fakes.resources import UID, node_agent, placement, report
from transship.agentapi.containers import ContainerReport
from transship.api.base import Resource
from transship.api.node_agent import NodeAgent
from transship.common.errors import (
    Unreachable,
)
from transship.controller import agent_poller as agent_poller_module
from transship.controller.agent_poller import AgentPoller
from transship.controller.cache import ResourceCache
from transship.kube.listing import Listing, Unreadable

R = TypeVar("R", bound=Resource)


def versioned(resource: R, version: int, **metadata: Any) -> R:
    update = {"resource_version": str(version), **metadata}
    meta = resource.metadata.model_copy(update=update)
    return resource.model_copy(update={"metadata": meta})


class TestAgentPoller:
    async def test_an_agent_is_silent_only_after_a_while_and_its_reported_copies_end(self) -> None:
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
        reports = (report(),)

        async def containers() -> tuple[ContainerReport, ...]:
            return reports

        agents.at("node-a").containers = containers  # type: ignore[method-assign]
        wake = cache.wake_of(UID)
        await agent_poller.ask("node-a")
        assert wake.is_set()
        wake.clear()
        await agent_poller.ask("node-a")
        assert not wake.is_set()
        assert [s.node for s in agent_poller.reported_copies(UID)] == ["node-a"]

    async def test_an_older_poll_does_not_replace_a_newer_report(self) -> None:
        cache, agents = ResourceCache(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=FakeClock())

        async def containers() -> tuple[ContainerReport, ...]:
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

    async def test_an_unexpected_error_is_no_answer_and_the_next_answer_counts(self) -> None:
        cache, clock, agents = ResourceCache(), FakeClock(), FakeAgents()
        cache.put(node_agent("node-a"))
        agent_poller = AgentPoller(cache, agents, clock=clock)
        agents.failing["node-a", "containers"] = ValueError("what?")  # type: ignore[assignment]
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

    async def test_an_agent_that_never_answered_may_have_any_container(self) -> None:
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

    def test_a_taint_wakes_the_loops_that_depend_on_the_node(self) -> None:
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
