"""MigrationReconciler: the loop of one migration.

It drives everything before the handover and after it; the handover itself is between the two
agents. When the operator is killed, the next one goes on from what the agents report.
"""

from __future__ import annotations

from loguru import logger

from transship.api.migration import ContainerMigration, MigrationStatus
from transship.api.obstacle import from_error
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.common.errors import TransshipError, Unreachable
from transship.controller.deps import Deps
from transship.controller.migration.cleanup import MigrationCleanup
from transship.controller.migration.decide import next_step
from transship.controller.migration.effects import MigrationEffects, Refusal
from transship.controller.migration.history import (
    is_finished,
)
from transship.controller.migration.observe import MigrationObserver, find_placement
from transship.controller.migration.status import Method, observed_status, with_fence
from transship.controller.migration.steps import (
    Finish,
    GiveUp,
    Outcome,
    RecordFence,
    Wait,
)
from transship.controller.migration.steps import Step as PlanStep
from transship.controller.reconcile.reconciler import Reconciler
from transship.controller.reconcile.shutdown import Lifetime

SILENCE_PAUSE_SECONDS = 0.5


class MigrationReconciler(Reconciler[ContainerMigration, MigrationStatus]):
    """Brings one migration to its end, and cleans up after it."""

    def __init__(self, uid: str, *, deps: Deps, lifetime: Lifetime) -> None:
        super().__init__(uid, deps=deps, lifetime=lifetime)
        self._observer = MigrationObserver(deps)
        self._refusal: GiveUp | None = None

    async def run(self) -> None:
        """Return when the migration is over and let go, or the process is to end."""
        self._deps.metrics.migration_began()
        try:
            with self._deps.limits.running(self._uid):
                await super().run()
        finally:
            self._deps.metrics.migration_left()

    def _find(self) -> ContainerMigration | None:
        return self._deps.cache.migration(self._uid)

    def _status_of(self, migration: ContainerMigration, /) -> MigrationStatus:
        return migration.status

    async def _pass(self, migration: ContainerMigration, /) -> float | None:
        if not is_finished(migration):
            return await self._advance(migration) * self._deps.limits.poll_factor()
        cleanup = MigrationCleanup(migration, deps=self._deps, wait=self._wait)
        return None if await cleanup.is_done() else SILENCE_PAUSE_SECONDS

    def _pass_failed(self, migration: ContainerMigration, error: Exception, /) -> float:
        if not isinstance(error, TransshipError):
            return super()._pass_failed(migration, error)
        self._deps.metrics.pass_failed("migration", error.reason)
        logger.bind(migration=migration.metadata.name, error=str(error)).debug("pass failed")
        return SILENCE_PAUSE_SECONDS * self._deps.limits.poll_factor()

    async def _wait(self, seconds: float) -> bool:
        """Wait inside a pass; returns whether the process goes on."""
        if not self._lifetime.over:
            self._wake.clear()
            await self._lifetime.wait(self._wake, seconds=seconds)
        return not self._lifetime.over

    async def _advance(self, migration: ContainerMigration) -> float:
        """Take the next step of a migration that is under way; returns how long to wait then."""
        writer = self._writer_for(migration)
        current = self._as_written(migration)
        placement = await find_placement(migration, self._deps)
        observed, method = await self._observer.observe(current, placement, give_up=self._refusal)
        step = next_step(observed)
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

    def _as_written(self, migration: ContainerMigration) -> ContainerMigration:
        return migration.model_copy(update={"status": self._writer_for(migration).current})

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
