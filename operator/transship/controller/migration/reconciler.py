"""One running migration: asks both agents, decides (see `decide`), acts, writes the status.

It drives everything up to the handover and after it; the handover itself the two agents make among
themselves. Killed at any moment, the next operator's loop goes on from what the agents say.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from loguru import logger

from transship.agentapi.states import RecordState, SideState
from transship.api.migration import ContainerMigration, MigrationStatus
from transship.api.obstacle import Obstacle, from_error
from transship.api.placement import ContainerPlacement, MigrationSettings
from transship.api.reasons import Reason
from transship.common.errors import NotFound, TransshipError, Unreachable
from transship.controller.deps import Deps
from transship.controller.migration.cancellation import (
    cancellation_is_unrecorded,
    reason_to_give_up,
)
from transship.controller.migration.decide import next_step
from transship.controller.migration.effects import MigrationEffects, Refusal
from transship.controller.migration.history import (
    is_finished,
    resolve_strategy,
    source_was_fenced,
    was_cancelled,
)
from transship.controller.migration.observe import ask_source, ask_target
from transship.controller.migration.preflight import Facts, first_obstacle
from transship.controller.migration.status import Method, observed_status, with_fence
from transship.controller.migration.steps import (
    Finish,
    GiveUp,
    ObservedMigration,
    Outcome,
    RecordFence,
    Side,
    Wait,
)
from transship.controller.migration.steps import Step as PlanStep
from transship.controller.node.nodes import named
from transship.controller.placement.orders import order_is_current
from transship.controller.placement.scheduling import entrance
from transship.controller.reconcile.finalizers import remove_finalizer
from transship.controller.reconcile.shutdown import Lifetime
from transship.controller.reconcile.status_writer import StatusWriter

UNFORESEEN_PAUSE_SECONDS = 5.0
SILENCE_PAUSE_SECONDS = 0.5
CANCELLATION_RECORD_TIMEOUT_SECONDS = 5.0
FORGET_RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
CROWD_WITHOUT_THROTTLE = 4  # moves at a time that may each poll as fast as they like


@dataclass
class _StateTimer:
    """Since when both sides have been in their present states; starts anew with each process."""

    states: tuple[SideState | None, SideState | None] = (None, None)
    since: float = 0.0

    def of(self, source: Side, target: Side, *, now: float) -> float:
        states = (source.state, target.state)
        if states != self.states or not self.since:
            self.states, self.since = states, now
        return now - self.since


class MigrationLoop:
    """Brings one migration to its end, and tidies up after it."""

    def __init__(self, uid: str, *, deps: Deps, lifetime: Lifetime) -> None:
        self._uid = uid
        self._deps = deps
        self._lifetime = lifetime
        self._wake = deps.cache.wake_of(uid)
        self._state_timer = _StateTimer()
        self._began = deps.clock.monotonic()
        self._refusal: GiveUp | None = None
        self._writer: StatusWriter[ContainerMigration, MigrationStatus] | None = None

    async def run(self) -> None:
        """Return when the migration is over and let go, or the process is to end."""
        self._deps.metrics.migration_began()
        self._deps.crowd.add(self._uid)
        try:
            while not self._lifetime.over:
                self._wake.clear()
                migration = self._deps.cache.migration(self._uid)
                if migration is None:
                    return
                if is_finished(migration):
                    if await self._is_cleaned_up(migration):
                        return
                    await self._lifetime.wait(self._wake, seconds=SILENCE_PAUSE_SECONDS)
                    continue
                pause = await self._pass_safely(migration)
                await self._lifetime.wait(self._wake, seconds=pause * self._stretch())
        finally:
            await self._leave()

    def _stretch(self) -> float:
        return max(1.0, len(self._deps.crowd) / CROWD_WITHOUT_THROTTLE)

    async def _leave(self) -> None:
        self._deps.metrics.migration_left()
        self._deps.crowd.discard(self._uid)
        if self._writer is not None:
            await self._writer.close()
        if not self._lifetime.over:
            self._deps.cache.forget(self._uid)
        self._deps.limits.wake()  # also of a migration that is gone before it had an end

    async def _pass_safely(self, migration: ContainerMigration) -> float:
        """A pass that fails for a reason nobody thought of is tried again."""
        try:
            return await self._pass(migration)
        except TransshipError as e:
            self._deps.metrics.pass_failed("migration", e.reason)
            logger.bind(migration=migration.metadata.name, error=str(e)).debug("pass failed")
            return SILENCE_PAUSE_SECONDS
        except Exception:
            logger.bind(migration=migration.metadata.name).exception("pass failed unexpectedly")
            return UNFORESEEN_PAUSE_SECONDS

    async def _pass(self, migration: ContainerMigration) -> float:
        writer = self._writer_for(migration)
        placement = await self._placement(migration)
        observed, method = await self._observe(migration, placement)
        step = next_step(observed)
        current = self._as_written(migration)
        now = self._deps.clock.now()
        status = observed_status(current, observed, step, method=method, now=now)
        if isinstance(step, Finish):
            await self._finish(current, status, step, placement)
            return 0.0
        writer.offer(status)
        if isinstance(step, Wait):
            return step.seconds
        if isinstance(step, RecordFence):
            await writer.write(with_fence(status, now=now))
            return 0.0
        return await self._act(step, migration, placement, method)

    async def _act(
        self,
        step: PlanStep,
        migration: ContainerMigration,
        placement: ContainerPlacement | None,
        method: Method,
    ) -> float:
        effects = MigrationEffects(self._deps, migration, placement, method)
        try:
            return await effects.do(step)
        except Refusal as e:
            self._refusal = GiveUp(Outcome.FAILED, from_error(e.cause))
            return 0.0
        except Unreachable:
            return SILENCE_PAUSE_SECONDS

    def _writer_for(
        self, migration: ContainerMigration
    ) -> StatusWriter[ContainerMigration, MigrationStatus]:
        if self._writer is None:
            self._writer = StatusWriter(
                migration,
                migration.status,
                cluster=self._deps.cluster,
                cache=self._deps.cache,
            )
        return self._writer

    async def _placement(self, migration: ContainerMigration) -> ContainerPlacement | None:
        """None only when the API server says that it is gone."""
        known = self._deps.cache.placement(migration.spec.placement_uid)
        if known is not None:
            return known
        try:
            found = await self._deps.cluster.get(
                ContainerPlacement,
                name=migration.spec.placement_name,
                namespace=migration.metadata.namespace,
            )
        except NotFound:
            return None
        return found if found.metadata.uid == migration.spec.placement_uid else None

    async def _observe(
        self, migration: ContainerMigration, placement: ContainerPlacement | None
    ) -> tuple[ObservedMigration, Method]:
        deps, spec = self._deps, migration.spec
        nodes = deps.agent_poller.nodes()
        running = deps.clock.monotonic() - self._began
        wish = reason_to_give_up(migration, placement, nodes=nodes, running_seconds=running)
        give_up = wish or self._refusal
        target = asyncio.create_task(ask_target(deps.agent_poller, migration))
        source, verdict = await ask_source(deps.agent_poller, migration)
        arrived = await target
        method = self._method(spec.settings, source)
        observed = ObservedMigration(
            spec=spec,
            source=source,
            target=arrived,
            verdict=verdict,
            give_up=give_up,
            preflight_obstacle=self._preflight_obstacle(migration, placement, method),
            order_is_current=placement is None or order_is_current(placement),
            fence_recorded=source_was_fenced(self._as_written(migration)),
            waiting_seconds=self._state_timer.of(source, arrived, now=deps.clock.monotonic()),
        )
        return observed, method

    def _as_written(self, migration: ContainerMigration) -> ContainerMigration:
        return migration.model_copy(update={"status": self._writer_for(migration).current})

    def _method(self, settings: MigrationSettings, source: Side) -> Method:
        """Decided once, when the container was first seen; what the sides were told stays."""
        stopped = source.container is not None and source.container.record == RecordState.STOPPED
        strategy, explanation = resolve_strategy(settings.strategy, stopped=stopped)
        decided = self._writer.current.strategy if self._writer is not None else None
        begun = source.report is not None
        return Method(decided if begun and decided is not None else strategy, explanation)

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

    async def _finish(
        self,
        migration: ContainerMigration,
        status: MigrationStatus,
        step: Finish,
        placement: ContainerPlacement | None,
    ) -> None:
        await self._writer_for(migration).write(status)
        self._deps.limits.wake()
        self._deps.metrics.migration_finished(migration, status)
        log = logger.bind(
            migration=migration.metadata.name,
            outcome=step.outcome.value,
            reason=status.reason,
            blackout_ms=status.blackout_milliseconds,
            total_ms=status.total_milliseconds,
        )
        log.info("migration finished")
        self._tell(migration.model_copy(update={"status": status}), step, placement)

    def _tell(
        self, migration: ContainerMigration, step: Finish, placement: ContainerPlacement | None
    ) -> None:
        recorder, status = self._deps.recorder, migration.status
        about = [r for r in (placement, migration) if r is not None]
        route = f"from {migration.spec.source_node} to {migration.spec.target_node}"
        for resource in about:
            if step.outcome == Outcome.SUCCEEDED:
                blackout = f"blackout {status.blackout_milliseconds} ms"
                note = f"{route} in {status.total_milliseconds} ms, {blackout}"
                recorder.record_normal(resource, reason=Reason.MIGRATION_SUCCEEDED, note=note)
            elif step.outcome == Outcome.CANCELLED:
                note = f"{route}: {status.message}"
                recorder.record_normal(resource, reason=Reason.MIGRATION_CANCELLED, note=note)
            else:
                note = f"{route}: {status.reason}: {status.message}"
                recorder.record_warning(resource, reason=Reason.MIGRATION_FAILED, note=note)

    async def _is_cleaned_up(self, migration: ContainerMigration) -> bool:
        """An API server that is away, or a conflict: nobody but this loop would try again soon."""
        try:
            await self._clean_up(migration)
        except TransshipError as e:
            logger.bind(migration=self._uid, error=str(e)).debug("not tidied up yet")
            return False
        return True

    async def _clean_up(self, migration: ContainerMigration) -> None:
        """Nothing here changes how it ended; what an agent misses now, its placement tidies."""
        spec = migration.spec
        await asyncio.gather(
            self._forget(spec.source_node, outgoing=True),
            self._forget(spec.target_node, outgoing=False),
            self._await_cancellation_record(migration),
        )
        await remove_finalizer(migration, cluster=self._deps.cluster)

    async def _forget(self, node: str, *, outgoing: bool) -> None:
        for pause in FORGET_RETRY_SECONDS:
            try:
                agent = self._deps.agent_poller.agent(node)
                if outgoing:
                    return await agent.forget_outgoing(self._uid)
                return await agent.forget_incoming(self._uid)
            except Unreachable:
                return None
            except TransshipError as e:  # it cannot just now: no room for its journal, say
                logger.bind(migration=self._uid, node=node).debug("not forgotten yet: {}", e)
            if self._lifetime.over:
                return None
            self._wake.clear()
            await self._lifetime.wait(self._wake, seconds=pause)
        return None

    async def _await_cancellation_record(self, migration: ContainerMigration) -> None:
        """The object is the only sign of a user's cancel: it stays until its placement noted it."""
        if migration.metadata.deletion_timestamp is None or not was_cancelled(migration):
            return
        ends = self._deps.clock.monotonic() + CANCELLATION_RECORD_TIMEOUT_SECONDS
        while not self._lifetime.over and self._deps.clock.monotonic() < ends:
            self._wake.clear()
            placement = self._deps.cache.placement(migration.spec.placement_uid)
            nodes = self._deps.agent_poller.nodes()
            if placement is None or not cancellation_is_unrecorded(
                placement, migration, nodes=nodes
            ):
                return
            await self._lifetime.wait(self._wake, seconds=SILENCE_PAUSE_SECONDS)
