"""MigrationEffects: carries out the steps of a migration. Each can be repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from loguru import logger

from transship.agentapi.migrations import (
    IncomingOrder,
    MemoryLoss,
    OutgoingOrder,
    Peer,
    VerdictNotice,
)
from transship.agentapi.states import Verdict
from transship.api.migration import ContainerMigration
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.common.errors import Refused, TransshipError, Unreachable
from transship.controller.deps import Deps
from transship.controller.migration.polling import HANDOVER_POLL_SECONDS, SHORT_POLL_SECONDS
from transship.controller.migration.status import Method
from transship.controller.migration.steps import (
    AbortSource,
    AbortTarget,
    Begin,
    LoseMemory,
    Prepare,
    RelayVerdict,
    Step,
)

REFUSED_PAUSE_SECONDS = 0.2


class Refusal(Exception):
    """An agent refuses the migration, or its order refers to what does not exist."""

    def __init__(self, cause: TransshipError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class MigrationEffects:
    """Takes one step; returns how long to wait for the next pass."""

    def __init__(
        self,
        deps: Deps,
        migration: ContainerMigration,
        placement: ContainerPlacement | None,
        method: Method,
    ) -> None:
        self._deps = deps
        self._uid = migration.metadata.uid
        self._name = migration.metadata.name
        self._spec = migration.spec
        self._placement = placement
        self._method = method

    async def do(self, step: Step) -> float:
        """Raises Refusal where the migration cannot begin, Unreachable where a retry may help."""
        match step:
            case Prepare():
                await self._or_refuse(self._prepare)
                return SHORT_POLL_SECONDS
            case Begin():
                await self._or_refuse(self._begin)
            case AbortSource():
                await self._deps.agent_poller.agent(self._spec.source_node).abort_outgoing(
                    self._uid, container=self._spec.placement_uid
                )
            case AbortTarget():
                return await self._abort_target()
            case LoseMemory():
                await self._deps.agent_poller.agent(self._spec.target_node).lose_memory(
                    self._uid, MemoryLoss(why=step.why)
                )
            case RelayVerdict():
                return await self._relay(step.verdict)
            case _:
                pass
        return HANDOVER_POLL_SECONDS

    async def _or_refuse(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Unreachable:
            raise
        except TransshipError as e:
            if e.reason == Reason.IN_MIGRATION:
                # an aborted migration is not quite over there
                return
            raise Refusal(e) from e

    async def _prepare(self) -> None:
        placement = self._placement
        if placement is None:
            return
        target = self._spec.target_node
        order = await self._deps.resolver.order(
            placement,
            placement.status,
            node=target,
            epoch=self._spec.epoch + 1,
            image_digest=placement.status.image_digest,
        )
        past = placement.status.container
        incoming = IncomingOrder(
            migration=self._uid,
            order=order,
            source=self._peer(self._spec.source_node),
            strategy=self._method.strategy,
            start_time=past.start_time if past is not None else None,
            restarts=past.restarts if past is not None else 0,
            last_exit=past.last_exit if past is not None else None,
        )
        await self._deps.agent_poller.agent(target).begin_incoming(incoming)
        logger.bind(migration=self._name, node=target).debug("target is preparing")

    async def _begin(self) -> None:
        outgoing = OutgoingOrder(
            migration=self._uid,
            container=self._spec.placement_uid,
            epoch=self._spec.epoch,
            target=self._peer(self._spec.target_node),
            strategy=self._method.strategy,
            settings=self._spec.settings,
        )
        await self._deps.agent_poller.agent(self._spec.source_node).begin_outgoing(outgoing)
        logger.bind(migration=self._name, node=self._spec.source_node).debug("source has begun")

    async def _abort_target(self) -> float:
        try:
            await self._deps.agent_poller.agent(self._spec.target_node).abort_incoming(self._uid)
        except Refused:
            # it holds the copy since: the next pass relays the verdict
            return REFUSED_PAUSE_SECONDS
        return HANDOVER_POLL_SECONDS

    async def _relay(self, verdict: Verdict) -> float:
        epoch = self._spec.epoch + (0 if verdict == Verdict.ABORTED else 1)
        notice = VerdictNotice(migration=self._uid, verdict=verdict, epoch=epoch)
        logger.bind(migration=self._name, verdict=verdict.value).info("verdict relayed")
        try:
            await self._deps.agent_poller.agent(self._spec.target_node).relay(notice)
        except Refused as e:
            logger.bind(migration=self._name, error=str(e)).warning("relayed verdict was refused")
            return REFUSED_PAUSE_SECONDS
        return HANDOVER_POLL_SECONDS

    def _peer(self, node: str) -> Peer:
        agent = self._deps.cache.node_agent(node)
        if agent is None:
            raise Unreachable(f"there is no NodeAgent {node}", reason="AgentUnreachable")
        status = agent.status
        return Peer(
            node=node,
            address=status.address,
            addresses=status.addresses,
            endpoint=status.endpoint,
        )
