"""AgentPoller: asks each agent once a second for the reports of all its containers.

One list per agent instead of one request per placement: two thousand placements on ten nodes are
ten requests a second. A loop is woken when the report of its container changes, and when its agent
stops or starts to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loguru import logger

from transship.agentapi.containers import ContainerReport
from transship.api.node_agent import NodeAgent
from transship.common.clock import Clock
from transship.common.errors import TransshipError, Unreachable
from transship.controller.cache import ResourceCache
from transship.controller.node.nodes import Node
from transship.controller.placement.owner import ReportedCopy
from transship.controller.ports import Agent

POLL_SECONDS = 1.0
SILENT_AFTER_SECONDS = 5.0  # an agent that is restarted answers again within two
GONE_AFTER_SECONDS = 60.0  # a live agent registers itself anew within its heartbeat


class Connections(Protocol):
    """Clients of agents, by their registration (controller.agent_connections.AgentConnections)."""

    def to(self, agent: NodeAgent) -> Agent: ...


@dataclass
class _Known:
    """The last answer of one agent."""

    answered_at: float
    answered: bool = False
    silent: bool = False
    reports: Mapping[str, ContainerReport] = field(default_factory=dict)
    noted: dict[str, ContainerReport | None] = field(default_factory=dict)
    """Single answers since the list was last asked for: the list may be older."""


class AgentPoller:
    def __init__(self, cache: ResourceCache, connections: Connections, *, clock: Clock) -> None:
        self._cache = cache
        self._connections = connections
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._missing_since: dict[str, float] = {}
        self._polls: dict[str, asyncio.Task[None]] = {}

    def agent(self, node: str) -> Agent:
        """Raises Unreachable for a node that has no NodeAgent, or one without an endpoint."""
        registered = self._cache.node_agent(node)
        if registered is None:
            raise Unreachable(f"there is no NodeAgent {node}", reason="AgentUnreachable")
        return self._connections.to(registered)

    def silent(self, node: str) -> bool:
        known = self._known.get(node)
        return known is not None and known.silent

    def gone(self, node: str) -> bool:
        """Its NodeAgent was deleted, and no living agent has registered itself again since."""
        if self._cache.has_node(node):
            self._missing_since.pop(node, None)
            return False
        now = self._clock.monotonic()
        return now - self._missing_since.setdefault(node, now) >= GONE_AFTER_SECONDS

    def fenced(self, node: str) -> bool:
        """The node has the out-of-service taint, or was deleted, and its agent does not answer.

        A node whose agent answers is not shut down, whatever its taints say.
        """
        if self.gone(node):
            return True
        silent = self.silent(node) or not self._cache.has_node(node)
        return silent and self._cache.is_out_of_service(node)

    def unreported_nodes(self) -> frozenset[str]:
        """Registered nodes whose agents have not answered this process, or answer no more."""
        names = {agent.metadata.name for agent in self._cache.node_agents()}
        answering = {
            node for node, known in self._known.items() if known.answered and not known.silent
        }
        return frozenset(node for node in names - answering if not self.fenced(node))

    def nodes(self) -> tuple[Node, ...]:
        loads, demands = self._cache.loads(), self._cache.demands()
        return tuple(
            Node(
                agent,
                load=loads.get(name, 0),
                silent=self.silent(name),
                demands=demands.get(name, ()),
                out_of_service=self._cache.is_out_of_service(name),
            )
            for agent in self._cache.node_agents()
            if (name := agent.metadata.name)
        )

    def reported_copies(self, id: str) -> tuple[ReportedCopy, ...]:
        """The last reports of a container, without those of silent and deleted nodes."""
        return tuple(
            ReportedCopy(node, report)
            for node, known in self._known.items()
            if not known.silent
            and self._cache.node_agent(node) is not None
            and (report := known.reports.get(id)) is not None
        )

    def note(self, node: str, id: str, report: ContainerReport | None) -> None:
        """Put in a report that is newer than the last poll. None: the agent has none."""
        known = self._known.get(node)
        if known is None:
            return
        known.noted[id] = report
        before, known.reports = known.reports.get(id), _with(known.reports, known.noted)
        if before != report:
            self._cache.wake({id})

    async def run(self) -> None:
        """Keep one poll per registered agent running, until cancelled."""
        try:
            while True:
                self._follow()
                await asyncio.sleep(POLL_SECONDS / 4)
        finally:
            for poll in self._polls.values():
                poll.cancel()
            await asyncio.gather(*self._polls.values(), return_exceptions=True)

    def _follow(self) -> None:
        """Start a poll for each registered agent. One that has ended is started again."""
        self._polls = {node: poll for node, poll in self._polls.items() if not poll.done()}
        registered = {agent.metadata.name for agent in self._cache.node_agents()}
        for node in registered - self._polls.keys():
            self._polls[node] = asyncio.create_task(self._poll(node), name=f"poll {node}")
        for node in self._polls.keys() - registered:
            self._polls.pop(node).cancel()
            self._known.pop(node, None)

    async def _poll(self, node: str) -> None:
        while True:
            await self.ask(node)
            await asyncio.sleep(POLL_SECONDS)

    async def ask(self, node: str) -> None:
        """Ask one agent once."""
        known = self._known.setdefault(node, _Known(answered_at=self._clock.monotonic()))
        known.noted = {}
        try:
            reports = await self.agent(node).containers()
        except Exception as e:
            if not isinstance(e, TransshipError) and not known.silent:
                logger.bind(node=node).exception("asking an agent failed unexpectedly")
            self._no_answer(node, known, e)
            return
        known.answered_at, known.answered = self._clock.monotonic(), True
        listed = {report.id: report for report in reports}
        self._answered(node, known, _with(listed, known.noted))

    def _answered(self, node: str, known: _Known, reports: Mapping[str, ContainerReport]) -> None:
        changed = {
            id
            for id in known.reports.keys() | reports.keys()
            if known.reports.get(id) != reports.get(id)
        }
        known.reports = reports
        if known.silent:
            logger.bind(node=node).info("agent answers again")
            known.silent = False
            changed |= self._cache.interested_in(node)
        self._cache.wake(changed)

    def _no_answer(self, node: str, known: _Known, error: Exception) -> None:
        lasted = self._clock.monotonic() - known.answered_at
        if known.silent or lasted < SILENT_AFTER_SECONDS:
            return
        logger.bind(node=node).warning("agent does not answer: {}", error)
        known.silent = True
        self._cache.wake(self._cache.interested_in(node))


def _with(
    reports: Mapping[str, ContainerReport], noted: Mapping[str, ContainerReport | None]
) -> Mapping[str, ContainerReport]:
    """The reports of a list, with what single answers have said since."""
    together = {**reports, **noted}
    return {id: report for id, report in together.items() if report is not None}
