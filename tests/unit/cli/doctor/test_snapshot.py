"""The doctor takes a second snapshot where needed, and queries the agents in parallel."""

from __future__ import annotations

import asyncio

from fakes.resources import NOW, UID, migration, node_agent, placement, report
from transship.agentapi.containers import ContainerReport
from transship.agentapi.node import NodeReport
from transship.agentapi.states import RecordState
from transship.api.address_pool import AddressPool
from transship.api.conditions import condition
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.cli.doctor.checks import AgentAnswer, Finding
from transship.cli.doctor.command import MAX_PARALLEL_QUERIES, examine, query_agents
from transship.cli.doctor.snapshot import Snapshot
from transship.common.errors import Unreachable
from transship.kube.listing import Listing

UNREACHABLE = Finding("node node-c", "no answer", "look at the agent's log there")
PLACED = placement(status={"node": "node-a", "epoch": 1, "observedGeneration": 1})
MOVED = placement(status={"node": "node-b", "epoch": 2, "observedGeneration": 1})


def snapshot(
    *placements: ContainerPlacement,
    a: tuple[ContainerReport, ...] = (),
    b: tuple[ContainerReport, ...] = (),
    unreachable: tuple[Finding, ...] = (),
    moves: tuple[int, ...] = (),
    allocated_to: tuple[str, ...] = (),
) -> Snapshot:
    allocations = [
        {"address": f"10.0.128.{n}", "namespace": "default", "name": "web", "uid": uid}
        for n, uid in enumerate(allocated_to, start=1)
    ]
    pool = AddressPool.model_validate(
        {
            "metadata": {"name": "default"},
            "spec": {"cidr": "10.0.128.0/17"},
            "status": {"allocations": allocations},
        }
    )
    return Snapshot(
        placements=Listing(placements),
        migrations=Listing(tuple(migration(epoch=epoch) for epoch in moves)),
        agents=Listing((node_agent("node-a"), node_agent("node-b"))),
        pools=Listing((pool,)),
        answers={"node-a": AgentAnswer(NodeReport(), a), "node-b": AgentAnswer(NodeReport(), b)},
        unreachable=unreachable,
        now=NOW,
    )


async def reported(*snapshots: Snapshot) -> list[str]:
    """The doctor's findings when it takes exactly these snapshots, one after the other."""
    remaining = iter(snapshots)

    async def take_snapshot() -> Snapshot:
        return next(remaining)

    findings = await examine(take_snapshot, pause_seconds=0)
    assert next(remaining, None) is None
    return [f"{finding.subject}: {finding.problem}" for finding in findings]


async def test_without_contradictions_one_snapshot_is_enough() -> None:
    assert await reported(snapshot(PLACED, a=(report(),))) == []
    assert await reported(snapshot(PLACED, a=(report(),), unreachable=(UNREACHABLE,))) == [
        "node node-c: no answer"
    ]


async def test_a_move_that_ends_during_the_queries_is_no_second_owner() -> None:
    between = snapshot(PLACED, a=(report(),), b=(report(epoch=2),))
    after = snapshot(MOVED, a=(report(record=RecordState.RELEASED),), b=(report(epoch=2),))
    assert await reported(between, after) == []


async def test_a_placement_that_is_created_during_the_queries_is_not_missing() -> None:
    between = snapshot(a=(report(),), moves=(1,), allocated_to=(UID,))
    assert (
        await reported(between, snapshot(PLACED, a=(report(),), moves=(1,), allocated_to=(UID,)))
        == []
    )


async def test_two_lasting_owners_are_reported() -> None:
    split = snapshot(PLACED, a=(report(),), b=(report(epoch=2),))
    assert await reported(split, split) == [
        "default/web: owned by node-a (epoch 1) and node-b (epoch 2); "
        "its status says node-a (epoch 1)"
    ]


async def test_a_contradiction_of_the_second_snapshot_alone_is_not_reported() -> None:
    first = snapshot(PLACED, a=(report(),), b=(report(epoch=2),))
    second = snapshot(PLACED, b=(report(epoch=2),))
    assert await reported(first, second) == []


async def test_an_agent_that_stops_answering_in_between_is_reported() -> None:
    first, second = snapshot(a=(report(),)), snapshot(a=(report(),), unreachable=(UNREACHABLE,))
    assert await reported(first, second) == [
        "node node-c: no answer",
        "default/web: node node-a has it (Running), but there is no such placement",
    ]


def unready(message: str) -> ContainerPlacement:
    ready = condition("Ready", False, reason="ContainerNotReady", message=message, now=NOW)
    return placement(
        status={
            "node": "node-a",
            "epoch": 1,
            "observedGeneration": 1,
            "conditions": [ready.dump()],
        }
    )


async def test_a_placement_that_stays_unready_is_reported_though_its_message_changes() -> None:
    first, second = (snapshot(unready(text), a=(report(),)) for text in ("try 1", "try 2"))
    assert await reported(first, second) == ["default/web: ContainerNotReady: try 2"]


async def test_a_placement_that_is_unready_for_a_moment_is_not_reported() -> None:
    moment, rest = snapshot(unready("no"), a=(report(),)), snapshot(PLACED, a=(report(),))
    assert await reported(moment, rest) == []
    begins = snapshot(MOVED, a=(report(),))
    assert await reported(begins, snapshot(unready("no"), a=(report(),))) == []


class FakeAgents:
    """Each answers only while `at_once` queries are open."""

    def __init__(self, *, at_once: int, without_endpoint: str = "") -> None:
        self._barrier = asyncio.Barrier(at_once)
        self._without_endpoint = without_endpoint
        self.most_at_once = 0
        self._now = 0

    def to(self, agent: NodeAgent) -> FakeAgent:
        if agent.metadata.name == self._without_endpoint:
            raise Unreachable("it has no endpoint", reason="AgentUnreachable")
        return FakeAgent(self, agent.metadata.name)

    async def wait(self) -> None:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await self._barrier.wait()
        self._now -= 1


class FakeAgent:
    def __init__(self, agents: FakeAgents, name: str) -> None:
        self._agents, self._name = agents, name

    async def node_report(self) -> NodeReport:
        await self._agents.wait()
        return NodeReport()

    async def containers(self) -> tuple[ContainerReport, ...]:
        return (report(),) if self._name == "node-a" else ()


async def test_agents_are_queried_in_parallel_and_one_without_an_answer_is_named() -> None:
    agents = FakeAgents(at_once=2, without_endpoint="node-c")
    async with asyncio.timeout(5):
        answers, unreachable = await query_agents(
            map(node_agent, ("node-a", "node-c", "node-b")), agents.to
        )
    assert [(node, len(answer.containers)) for node, answer in answers.items()] == [
        ("node-a", 1),
        ("node-b", 0),
    ]
    assert [finding.subject for finding in unreachable] == ["node node-c"]


async def test_no_more_agents_are_queried_at_once_than_can_answer_in_time() -> None:
    agents = FakeAgents(at_once=MAX_PARALLEL_QUERIES)
    names = [f"node-{n}" for n in range(2 * MAX_PARALLEL_QUERIES)]
    async with asyncio.timeout(5):
        answers, _ = await query_agents(map(node_agent, names), agents.to)
    assert list(answers) == names
    assert agents.most_at_once == MAX_PARALLEL_QUERIES
