"""PlacementReconciler: the loop of one placement.

It is woken by changes of the placement, its migrations and the nodes, and by changes of what agents
report.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from loguru import logger

from transship.api import FINALIZER
from transship.api.conditions import find
from transship.api.migration import ContainerMigration
from transship.api.obstacle import from_error
from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.api.reasons import Reason
from transship.common.errors import Conflict, TransshipError
from transship.controller.deps import Deps
from transship.controller.migration.history import expired_history
from transship.controller.placement.decide import decide
from transship.controller.placement.effects import PlacementEffects
from transship.controller.placement.observe import observe
from transship.controller.placement.status import OWNER_DISPUTED, observed_status
from transship.controller.placement.steps import Decision, Done, Move, ObservedPlacement, Wait
from transship.controller.reconcile.finalizers import add_finalizer, remove_finalizer
from transship.controller.reconcile.reconciler import Reconciler
from transship.controller.reconcile.shutdown import Lifetime

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0


class PlacementReconciler(Reconciler[ContainerPlacement, PlacementStatus]):
    """Brings one placement to the state of its spec, until it is deleted."""

    def __init__(self, uid: str, *, deps: Deps, lifetime: Lifetime) -> None:
        super().__init__(uid, deps=deps, lifetime=lifetime)
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._is_new = False

    def _find(self) -> ContainerPlacement | None:
        return self._deps.cache.placement(self._uid)

    def _status_of(self, placement: ContainerPlacement, /) -> PlacementStatus:
        return placement.status

    async def _leave(self) -> None:
        await super()._leave()
        self._deps.limits.dequeue(self._uid)

    def _pass_failed(self, placement: ContainerPlacement, error: Exception, /) -> float:
        super()._pass_failed(placement, error)
        self._deps.limits.postpone(self._uid)
        return LONGEST_RETRY_SECONDS

    async def _pass(self, placement: ContainerPlacement, /) -> float | None:
        if FINALIZER not in placement.metadata.finalizers:
            return await self._add_finalizer(placement)
        writer = self._writer_for(placement)
        observed = await observe(placement, writer.current, is_new=self._is_new, deps=self._deps)
        decision = decide(observed)
        effects = PlacementEffects(self._deps, writer)
        await effects.try_beside(decision.beside, observed)
        if isinstance(decision.step, Done):
            return await self._end(placement)
        pause = 0.0
        try:
            if isinstance(decision.step, Wait):
                pause = decision.step.seconds
            else:
                pause = await effects.do(decision.step, observed)
            self._retry_seconds = FIRST_RETRY_SECONDS
            self._queue(decision, observed)
        except TransshipError as e:
            decision, pause = self._failed(decision, placement, e)
        status = observed_status(replace(observed, status=writer.current), decision)
        self._record_dispute(placement, status, before=writer.current)
        writer.offer(status)
        if isinstance(decision.step, Wait):
            await self._prune(placement, observed)
        return pause

    async def _add_finalizer(self, placement: ContainerPlacement) -> float | None:
        """Before anything else: a placement without a finalizer could be deleted unnoticed."""
        if placement.metadata.deletion_timestamp is not None:
            return None  # deleted before anything was done for it
        try:
            changed = await add_finalizer(placement, cluster=self._deps.cluster)
        except TransshipError as e:
            return self._put_off(placement, "AddFinalizer", e)
        if changed is None:
            self._deps.cache.drop(placement)
        else:
            self._is_new = True
            self._deps.cache.put(changed)
        return 0.0

    def _queue(self, decision: Decision, observed: ObservedPlacement) -> None:
        """Wait for a place while that is all that a move lacks."""
        why, owner, wanted = decision.obstacle, observed.owner, decision.wanted
        waits = why is not None and why.reason == Reason.MIGRATION_PENDING
        if waits and owner is not None and wanted is not None:
            self._deps.limits.enqueue(self._uid, source=owner.node, target=wanted)
        elif not isinstance(decision.step, Move):
            # a move whose place was taken meanwhile asks again at once
            self._deps.limits.dequeue(self._uid)

    def _record_dispute(
        self, placement: ContainerPlacement, status: PlacementStatus, *, before: PlacementStatus
    ) -> None:
        """Record each message once: an agent may report the same for days."""
        previous, dispute = (find(s.conditions, OWNER_DISPUTED) for s in (before, status))
        if dispute is None or (previous is not None and previous.message == dispute.message):
            return
        recorder, name = self._deps.recorder, placement.metadata.name
        recorder.record_warning(placement, reason=dispute.reason, note=dispute.message)
        logger.bind(placement=name).warning(dispute.message)

    def _failed(
        self, decision: Decision, placement: ContainerPlacement, error: TransshipError
    ) -> tuple[Decision, float]:
        pause = self._put_off(placement, type(decision.step).__name__, error)
        self._deps.limits.postpone(self._uid)
        return Decision(Wait(pause), from_error(error), decision.wanted), pause

    def _put_off(self, placement: ContainerPlacement, step: str, error: TransshipError) -> float:
        """Record a step that was not taken; returns the pause, which doubles each time."""
        pause = self._retry_seconds
        self._retry_seconds = min(pause * 2, LONGEST_RETRY_SECONDS)
        self._deps.metrics.pass_failed("placement", error.reason)
        log = logger.bind(placement=placement.metadata.name, step=step, retry_seconds=pause)
        log.bind(error=str(error)).debug("step not taken")
        if not isinstance(error, Conflict):
            self._deps.recorder.record_warning(placement, reason=error.reason, note=str(error))
        return pause

    async def _prune(self, placement: ContainerPlacement, observed: ObservedPlacement) -> None:
        """Delete migrations beyond the history limits."""
        for migration in expired_history(observed.migrations, placement, silent=observed.silent):
            meta = migration.metadata
            # somebody else has deleted it, or the next pass does
            with suppress(TransshipError):
                await self._deps.cluster.delete(
                    ContainerMigration, name=meta.name, namespace=meta.namespace, uid=meta.uid
                )
            self._deps.cache.drop(migration)

    async def _end(self, placement: ContainerPlacement) -> float | None:
        try:
            await remove_finalizer(placement, cluster=self._deps.cluster)
        except TransshipError as e:
            return self._put_off(placement, "RemoveFinalizer", e)
        logger.bind(placement=placement.metadata.name).info("placement deleted")
        return None
