"""Sides: what the two agents of a migration answer in one pass. Silence is kept apart from "no"."""

from __future__ import annotations

from transship.api.migration import ContainerMigration
from transship.common.errors import TransshipError
from transship.controller.fleet import Fleet
from transship.controller.ports import Agent
from transship.plan.migration_steps import Side
from transship.protocol.migrations import MigrationReport
from transship.protocol.states import SideState, Verdict


async def ask_source(fleet: Fleet, migration: ContainerMigration) -> tuple[Side, Verdict | None]:
    """The source's half, and its verdict: the record's own where it knows the move no more."""
    node, uid = migration.spec.source_node, migration.metadata.uid
    try:
        agent = fleet.agent(node)
        report = await agent.outgoing(uid)
        if report is not None:
            side = await _side(agent, node, report, migration)
            return side, report.verdict
        side = await _side(agent, node, None, migration)
        # a restarted agent keeps a decided move in its record alone
        return side, (await agent.verdict(uid)).verdict
    except TransshipError:
        return Side(node, answered=False, fenced=fleet.fenced(node)), None


async def ask_target(fleet: Fleet, migration: ContainerMigration) -> Side:
    node, uid = migration.spec.target_node, migration.metadata.uid
    try:
        agent = fleet.agent(node)
        return await _side(agent, node, await agent.incoming(uid), migration)
    except TransshipError:
        return Side(node, answered=False, fenced=fleet.fenced(node))


async def _side(
    agent: Agent, node: str, report: MigrationReport | None, migration: ContainerMigration
) -> Side:
    """The container's record is asked for where the report does not say who owns it."""
    busy = {SideState.PREPARING, SideState.PREPARED, SideState.COPYING, SideState.FROZEN}
    if report is not None and report.state in busy:
        return Side(node, answered=True, report=report)
    container = await agent.container(migration.spec.placement_uid)
    return Side(node, answered=True, report=report, container=container)
