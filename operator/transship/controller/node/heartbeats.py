"""NodeWatch: sets Ready of a NodeAgent to Unknown when its agent is gone.

Both signs must agree: its lease has expired, and it does not answer the operator. The agent itself
writes Ready again when it is back.
"""

from __future__ import annotations

import asyncio
from datetime import datetime

from loguru import logger

from transship.api.conditions import Condition, Status, condition, find
from transship.api.node_agent import NodeAgent
from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.common.tasks import for_each
from transship.controller.deps import Deps
from transship.controller.ports import Heartbeats

WATCH_SECONDS = 5.0
LEASE_PREFIX = "agent-"  # transship.kube.leases.AGENT_PREFIX


class NodeWatch:
    def __init__(self, deps: Deps, heartbeats: Heartbeats) -> None:
        self._deps = deps
        self._heartbeats = heartbeats

    async def run(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.check()
            except TransshipError as e:
                logger.bind(error=str(e)).warning("the agents' leases were not read")

    async def check(self) -> None:
        """Check all leases once."""
        now = self._deps.clock.now()
        leases = await self._heartbeats.list()
        lapsed = {lease.name.removeprefix(LEASE_PREFIX) for lease in leases if lease.expired}
        gone = [
            agent
            for agent in self._deps.cache.node_agents()
            if (name := agent.metadata.name) in lapsed
            and self._deps.agent_poller.silent(name)
            and _has_known_readiness(agent)
        ]
        await for_each(
            gone,
            lambda agent: self._mark(agent, now=now),
            doing="marking a node's agent as gone",
            name=lambda agent: agent.metadata.name,
        )

    async def _mark(self, agent: NodeAgent, *, now: datetime) -> None:
        name = agent.metadata.name
        await self._deps.cluster.json_patch(
            NodeAgent, name=name, patch=_unknown_patch(agent, now=now), subresource="status"
        )
        logger.bind(node=name).warning("node's agent is gone")
        self._deps.recorder.record_warning(
            agent, reason=Reason.AGENT_NOT_RENEWING, note=Reason.AGENT_NOT_RENEWING.meaning
        )


def _has_known_readiness(agent: NodeAgent) -> bool:
    ready = find(agent.status.conditions, "Ready")
    return ready is not None and ready.status != Status.UNKNOWN


def _unknown_patch(agent: NodeAgent, *, now: datetime) -> list[dict[str, object]]:
    """Replaces one condition, unless the agent has changed the list meanwhile."""
    index = [c.type for c in agent.status.conditions].index("Ready")
    path = f"/status/conditions/{index}"
    unknown: Condition = condition(
        "Ready",
        Status.UNKNOWN,
        reason=Reason.AGENT_NOT_RENEWING,
        message=Reason.AGENT_NOT_RENEWING.meaning,
        now=now,
    )
    return [
        {"op": "test", "path": f"{path}/type", "value": "Ready"},
        {"op": "replace", "path": path, "value": unknown.dump()},
    ]
