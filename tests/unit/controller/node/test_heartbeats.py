"""Who says that a node's agent is gone."""

from __future__ import annotations

from dataclasses import dataclass

from fakes.operator_world import OperatorWorld
from transship.api.conditions import Status, find
from transship.api.node_agent import NodeAgent
from transship.common.errors import InvalidInput
from transship.controller.node.heartbeats import NodeWatch


@dataclass(frozen=True)
class Lease:
    name: str
    expired: bool


class Leases:
    def __init__(self, *leases: Lease) -> None:
        self.leases = leases

    async def list(self) -> tuple[Lease, ...]:
        return self.leases


def ready(world: OperatorWorld, node: str) -> Status:
    agent = world.cluster.find(NodeAgent, node, None)
    assert agent is not None
    found = find(agent.status.conditions, "Ready")
    assert found is not None
    return found.status


async def silence(world: OperatorWorld, *nodes: str) -> None:
    await world.settle(5)
    world.agents.silent.update(nodes)
    world.clock.pass_time(60)
    await world.until(lambda: all(world.deps.agent_poller.silent(node) for node in nodes))


async def test_a_lapsed_lease_and_silence_together_make_ready_unknown() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await silence(world, "node-a")
        leases = Leases(Lease("agent-node-a", True), Lease("agent-node-b", False))
        await NodeWatch(world.deps, leases).check()
        assert ready(world, "node-a") == Status.UNKNOWN
        assert ready(world, "node-b") == Status.TRUE
        assert "AgentNotRenewing" in world.recorder.reasons


async def test_one_sign_alone_is_not_enough() -> None:
    async with OperatorWorld("node-a", "node-b") as world:
        await silence(world, "node-a")
        leases = Leases(Lease("agent-node-a", False), Lease("agent-node-b", True))
        await NodeWatch(world.deps, leases).check()
        assert ready(world, "node-a") == ready(world, "node-b") == Status.TRUE


async def test_a_node_whose_status_cannot_be_written_keeps_no_other_from_being_marked() -> None:
    async with OperatorWorld("node-a", "node-b", "node-c") as world:
        await silence(world, "node-a", "node-b")
        world.cluster.failing["json_patch node-a"] = InvalidInput("status.selfTest: invalid")
        leases = Leases(Lease("agent-node-a", True), Lease("agent-node-b", True))
        await NodeWatch(world.deps, leases).check()
        assert (ready(world, "node-a"), ready(world, "node-b")) == (Status.TRUE, Status.UNKNOWN)
