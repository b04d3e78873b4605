"""What a pass over a migration observes: both agents' answers, the placement and the nodes.

Silence is kept apart from the answer that there is nothing.
"""

from __future__ import annotations

import asyncio

from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.migration import ContainerMigration
from transship.api.obstacle import Obstacle
from transship.api.placement import ContainerPlacement
from transship.common.errors import NotFound, TransshipError
from transship.controller.agent_poller import AgentPoller
from transship.controller.deps import Deps
from transship.controller.migration.cancellation import reason_to_give_up
from transship.controller.migration.history import resolve_strategy, source_was_fenced
from transship.controller.migration.preflight import Facts, first_obstacle
from transship.controller.migration.status import Method
from transship.controller.migration.steps import GiveUp, ObservedMigration, Side
from transship.controller.node.nodes import named
from transship.controller.placement.orders import order_is_current
from transship.controller.placement.scheduling import entrance


async def find_placement(migration: ContainerMigration, deps: Deps) -> ContainerPlacement | None:
    """The migration's placement. None only when the API server says that it is gone."""
    cached = deps.cache.placement(migration.spec.placement_uid)
    if cached is not None:
        return cached
    try:
        placement = await deps.cluster.get(
            ContainerPlacement,
            name=migration.spec.placement_name,
            namespace=migration.metadata.namespace,
        )
    except NotFound:
        return None
    same = placement.metadata.uid == migration.spec.placement_uid
    return placement if same else None


class MigrationObserver:
    """Observes one migration, and measures by this process's clock how long nothing changes."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._began = deps.clock.monotonic()
        self._states: tuple[SideState | None, SideState | None] = (None, None)
        self._states_since = 0.0

    async def observe(
        self,
        migration: ContainerMigration,
        placement: ContainerPlacement | None,
        *,
        give_up: GiveUp | None,
    ) -> tuple[ObservedMigration, Method]:
        """migration: with the status as this operator last wrote it.

        give_up: what an agent's refusal asks for; a wish of the user comes before it.
        """
        deps = self._deps
        running_seconds = deps.clock.monotonic() - self._began
        wish = reason_to_give_up(
            migration,
            placement,
            nodes=deps.agent_poller.nodes(),
            running_seconds=running_seconds,
        )
        asking_target = asyncio.create_task(ask_target(deps.agent_poller, migration))
        source, verdict = await ask_source(deps.agent_poller, migration)
        target = await asking_target
        method = _method(migration, source)
        observed = ObservedMigration(
            spec=migration.spec,
            source=source,
            target=target,
            verdict=verdict,
            give_up=wish or give_up,
            preflight_obstacle=self._preflight_obstacle(migration, placement, method),
            order_is_current=placement is None or order_is_current(placement),
            fence_recorded=source_was_fenced(migration),
            waiting_seconds=self._waiting_seconds(source, target),
        )
        return observed, method

    def _waiting_seconds(self, source: Side, target: Side) -> float:
        """For how long both sides have been in their states; starts anew with each process."""
        now, states = self._deps.clock.monotonic(), (source.state, target.state)
        if states != self._states or not self._states_since:
            self._states, self._states_since = states, now
        return now - self._states_since

    def _preflight_obstacle(
        self,
        migration: ContainerMigration,
        placement: ContainerPlacement | None,
        method: Method,
    ) -> Obstacle | None:
        nodes = self._deps.agent_poller.nodes()
        source = named(nodes, migration.spec.source_node)
        target = named(nodes, migration.spec.target_node)
        if target is None:
            return entrance(migration.spec.target_node, nodes=nodes)
        if source is None or placement is None:
            return None
        addresses = placement.status.held_addresses
        container, uid = placement.spec.container, placement.metadata.uid
        return first_obstacle(Facts(source, target, container, addresses, method.strategy, uid))


def _method(migration: ContainerMigration, source: Side) -> Method:
    """Decided once, when the container was first observed; what the sides were ordered stays."""
    stopped = source.container is not None and source.container.record == RecordState.STOPPED
    strategy, explanation = resolve_strategy(migration.spec.settings.strategy, stopped=stopped)
    decided, begun = migration.status.strategy, source.report is not None
    return Method(decided if begun and decided is not None else strategy, explanation)


async def ask_source(
    agent_poller: AgentPoller, migration: ContainerMigration
) -> tuple[Side, Verdict | None]:
    """The source's half, and its verdict: the record's own where it knows the move no more."""
    node, uid = migration.spec.source_node, migration.metadata.uid
    try:
        agent = agent_poller.agent(node)
        report = await agent.outgoing(uid)
        if report is not None:
            side = await _side(agent_poller, node, report, migration)
            return side, report.verdict
        side = await _side(agent_poller, node, None, migration)
        # a restarted agent keeps a decided move in its record alone
        return side, (await agent.verdict(uid)).verdict
    except TransshipError:
        return Side(node, answered=False, fenced=agent_poller.fenced(node)), None


async def ask_target(agent_poller: AgentPoller, migration: ContainerMigration) -> Side:
    node, uid = migration.spec.target_node, migration.metadata.uid
    try:
        agent = agent_poller.agent(node)
        return await _side(agent_poller, node, await agent.incoming(uid), migration)
    except TransshipError:
        return Side(node, answered=False, fenced=agent_poller.fenced(node))


async def _side(
    agent_poller: AgentPoller,
    node: str,
    report: MigrationReport | None,
    migration: ContainerMigration,
) -> Side:
    """The container's record is asked for where the report does not say who owns it.

    The poller notes it: the placement's status never reports anything older of its new owner.
    """
    busy = {SideState.PREPARING, SideState.PREPARED, SideState.COPYING, SideState.FROZEN}
    if report is not None and report.state in busy:
        return Side(node, answered=True, report=report)
    uid = migration.spec.placement_uid
    container = await agent_poller.agent(node).container(uid)
    agent_poller.note(node, uid, container)
    return Side(node, answered=True, report=report, container=container)
