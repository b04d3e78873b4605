"""What the doctor tells when it has looked twice, and that it asks all agents at once."""

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
from transship.cli.doctor import ASKED_AT_ONCE, ask, examine
from transship.cli.findings import Finding, Told
from transship.cli.snapshots import Look
from transship.common.errors import Unreachable
from transship.kube.listing import Listing

SILENT = Finding("node node-c", "no answer", "look at the agent's log there")
PLACED = placement(status={"node": "node-a", "epoch": 1, "observedGeneration": 1})
MOVED = placement(status={"node": "node-b", "epoch": 2, "observedGeneration": 1})


def look(
    *placements: ContainerPlacement,
    a: tuple[ContainerReport, ...] = (),
    b: tuple[ContainerReport, ...] = (),
    silent: tuple[Finding, ...] = (),
    moves: tuple[int, ...] = (),
    given: tuple[str, ...] = (),
) -> Look:
    pool = AddressPool.model_validate(
        {"metadata": {"name": "default"}, "spec": {"cidr": "10.0.128.0/17"},
         "status": {"allocations": [
             {"address": f"10.0.128.{n}", "namespace": "default", "name": "web", "uid": uid}
             for n, uid in enumerate(given, start=1)]}}
    )  # fmt: skip
    return Look(
        placements=Listing(placements),
        migrations=Listing(tuple(migration(epoch=epoch) for epoch in moves)),
        agents=Listing((node_agent("node-a"), node_agent("node-b"))),
        pools=Listing((pool,)),
        told={
            "node-a": Told(NodeReport(), a), "node-b": Told(NodeReport(), b),
        },
        silent=silent,
        now=NOW,
    )  # fmt: skip


async def told(*looks: Look) -> list[str]:
    """What the doctor tells when it sees these, one after the other, and no other."""
    seen = iter(looks)

    async def take() -> Look:
        return next(seen)

    found = await examine(take, pause_seconds=0)
    assert next(seen, None) is None
    return [f"{finding.subject}: {finding.problem}" for finding in found]


async def test_a_world_at_rest_is_looked_at_once() -> None:
    assert await told(look(PLACED, a=(report(),))) == []
    assert await told(look(PLACED, a=(report(),), silent=(SILENT,))) == ["node node-c: no answer"]


async def test_a_move_that_ends_while_the_agents_are_asked_is_no_second_owner() -> None:
    between = look(PLACED, a=(report(),), b=(report(epoch=2),))
    after = look(MOVED, a=(report(record=RecordState.RELEASED),), b=(report(epoch=2),))
    assert await told(between, after) == []


async def test_a_placement_that_is_made_meanwhile_is_not_missing() -> None:
    between = look(a=(report(),), moves=(1,), given=(UID,))
    assert await told(between, look(PLACED, a=(report(),), moves=(1,), given=(UID,))) == []


async def test_two_owners_that_stay_are_told() -> None:
    split = look(PLACED, a=(report(),), b=(report(epoch=2),))
    assert await told(split, split) == [
        "default/web: owned by node-a (epoch 1) and node-b (epoch 2); "
        "its status says node-a (epoch 1)"
    ]


async def test_what_begins_only_after_the_first_look_is_not_told() -> None:
    first = look(PLACED, a=(report(),), b=(report(epoch=2),))
    second = look(PLACED, b=(report(epoch=2),))
    assert await told(first, second) == []


async def test_an_agent_that_falls_silent_meanwhile_is_told() -> None:
    first, second = look(a=(report(),)), look(a=(report(),), silent=(SILENT,))
    assert await told(first, second) == [
        "node node-c: no answer",
        "default/web: node node-a has it (Running), but there is no such placement",
    ]


def unready(message: str) -> ContainerPlacement:
    ready = condition("Ready", False, reason="ContainerNotReady", message=message, now=NOW)
    return placement(
        status={
            "node": "node-a", "epoch": 1, "observedGeneration": 1, "conditions": [ready.dump()],
        }
    )  # fmt: skip


async def test_a_placement_that_stays_unready_is_told_though_the_words_change() -> None:
    first, second = (look(unready(text), a=(report(),)) for text in ("try 1", "try 2"))
    assert await told(first, second) == ["default/web: ContainerNotReady: try 2"]


async def test_a_placement_that_is_unready_for_a_moment_is_not_told() -> None:
    moment, rest = look(unready("no"), a=(report(),)), look(PLACED, a=(report(),))
    assert await told(moment, rest) == []
    begins = look(MOVED, a=(report(),))
    assert await told(begins, look(unready("no"), a=(report(),))) == []


class FakeAgents:
    """Each answers once `at_once` of them have been asked and have not answered yet."""

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


async def test_agents_are_asked_at_the_same_time_and_a_silent_one_is_named() -> None:
    agents = FakeAgents(at_once=2, without_endpoint="node-c")
    async with asyncio.timeout(5):
        found, silent = await ask(map(node_agent, ("node-a", "node-c", "node-b")), agents.to)
    assert [(node, len(said.containers)) for node, said in found.items()] == [
        ("node-a", 1),
        ("node-b", 0),
    ]
    assert [finding.subject for finding in silent] == ["node node-c"]


async def test_no_more_agents_are_asked_at_once_than_can_answer_in_time() -> None:
    agents = FakeAgents(at_once=ASKED_AT_ONCE)
    names = [f"node-{n}" for n in range(2 * ASKED_AT_ONCE)]
    async with asyncio.timeout(5):
        found, _ = await ask(map(node_agent, names), agents.to)
    assert list(found) == names
    assert agents.most_at_once == ASKED_AT_ONCE
