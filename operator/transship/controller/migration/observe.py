"""Sides: what the two agents of a migration answer in one pass. Silence is kept apart from "no"."""

from __future__ import annotations

from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import ContainerMigration
from transship.common.errors import TransshipError
from transship.controller.agent_poller import AgentPoller
from transship.controller.migration.steps import Side
from transship.controller.ports import Agent


async def ask_source(
    agent_poller: AgentPoller, migration: ContainerMigration
) -> tuple[Side, Verdict | None]:
    """The source's half, and its verdict: the record's own where it knows the move no more."""
    node, uid = migration.spec.source_node, migration.metadata.uid
    try:
        agent = agent_poller.agent(node)
        report = await agent.outgoing(uid)
        if report is not None:
            side = await _side(agent, node, report, migration)
            return side, report.verdict
        side = await _side(agent, node, None, migration)
        # a restarted agent keeps a decided move in its record alone
        return side, (await agent.verdict(uid)).verdict
    except TransshipError:
        return Side(node, answered=False, fenced=agent_poller.fenced(node)), None


async def ask_target(agent_poller: AgentPoller, migration: ContainerMigration) -> Side:
    node, uid = migration.spec.target_node, migration.metadata.uid
    try:
        agent = agent_poller.agent(node)
        return await _side(agent, node, await agent.incoming(uid), migration)
    except TransshipError:
        return Side(node, answered=False, fenced=agent_poller.fenced(node))


async def _side(
    agent: Agent, node: str, report: MigrationReport | None, migration: ContainerMigration
) -> Side:
    """The container's record is asked for where the report does not say who owns it."""
    busy = {SideState.PREPARING, SideState.PREPARED, SideState.COPYING, SideState.FROZEN}
    if report is not None and report.state in busy:
        return Side(node, answered=True, report=report)
    container = await agent.container(migration.spec.placement_uid)
    return Side(node, answered=True, report=report, container=container)
