"""One placement: observes, decides (see `decide`), acts, writes the status.

Woken by changes of the placement, its migrations, the nodes, and of what agents say; nothing that
matters is remembered between two passes but the status that this loop alone writes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto

from loguru import logger

from transship.api import FINALIZER
from transship.api.conditions import find
from transship.api.migration import ContainerMigration
from transship.api.obstacle import from_error
from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.api.reasons import Reason
from transship.common.errors import Conflict, TransshipError
from transship.controller.deps import Deps
from transship.controller.migration.history import Migrations, expired_history
from transship.controller.placement.decide import decide
from transship.controller.placement.effects import PlacementEffects
from transship.controller.placement.owner import ReportedCopy, copy_at
from transship.controller.placement.status import OWNER_DISPUTED, observed_status
from transship.controller.placement.steps import Decision, Done, Move, ObservedPlacement, Wait
from transship.controller.reconcile.finalizers import add_finalizer, remove_finalizer
from transship.controller.reconcile.shutdown import Lifetime
from transship.controller.reconcile.status_writer import StatusWriter

FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 30.0


class NoAnswer(Enum):
    """No answer, which is something else than the answer that there is nothing."""

    NO_ANSWER = auto()


NO_ANSWER = NoAnswer.NO_ANSWER


class PlacementLoop:
    """Brings one placement to where its spec wants it, until it is deleted."""

    def __init__(self, uid: str, *, deps: Deps, lifetime: Lifetime) -> None:
        self._uid = uid
        self._deps = deps
        self._lifetime = lifetime
        self._wake = deps.cache.wake_of(uid)
        self._writer: StatusWriter[ContainerPlacement, PlacementStatus] | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._is_new = False  # this very process took it on before anything was done for it

    async def run(self) -> None:
        """Return when the placement is gone, or the process is to end."""
        try:
            while not self._lifetime.over:
                self._wake.clear()
                placement = self._deps.cache.placement(self._uid)
                if placement is None:
                    return
                pause = await self._pass_safely(placement)
                if pause is None:
                    return
                await self._lifetime.wait(self._wake, seconds=pause)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        if self._writer is not None:
            await self._writer.close()
        self._deps.limits.leave(self._uid)
        if not self._lifetime.over:
            self._deps.cache.forget(self._uid)

    async def _pass_safely(self, placement: ContainerPlacement) -> float | None:
        """A pass that fails for a reason nobody thought of is tried again later."""
        try:
            return await self._pass(placement)
        except Exception:
            logger.bind(placement=placement.metadata.name).exception("pass failed unexpectedly")
            self._deps.limits.step_aside(self._uid)
            return LONGEST_RETRY_SECONDS

    async def _pass(self, placement: ContainerPlacement) -> float | None:
        """One pass; returns how long to wait for the next, None at the end of all."""
        if FINALIZER not in placement.metadata.finalizers:
            return await self._add_finalizer(placement)
        writer = self._writer_for(placement)
        observed = await self._observe(placement, writer.current)
        decision = decide(observed)
        if isinstance(decision.step, Done):
            return await self._end(placement)
        pause = 0.0
        try:
            if isinstance(decision.step, Wait):
                pause = decision.step.seconds
            else:
                pause = await PlacementEffects(self._deps, writer).do(decision.step, observed)
            self._retry_seconds = FIRST_RETRY_SECONDS
            self._queue(decision, observed)
        except TransshipError as e:
            decision, pause = self._failed(decision, placement, e)
        status = observed_status(replace(observed, status=writer.current), decision)
        self._tell_of_dispute(placement, status, before=writer.current)
        writer.offer(status)
        if isinstance(decision.step, Wait):
            await self._prune(placement, observed)
        return pause

    async def _add_finalizer(self, placement: ContainerPlacement) -> float | None:
        """Nothing is done for a placement that could go unnoticed."""
        if placement.metadata.deletion_timestamp is not None:
            return None  # deleted before anything was done for it
        try:
            held = await add_finalizer(placement, cluster=self._deps.cluster)
        except TransshipError as e:
            return self._put_off(placement, "Hold", e)
        if held is None:
            self._deps.cache.drop(placement)
        else:
            self._is_new = True
            self._deps.cache.put(held)
        return 0.0

    def _queue(self, decision: Decision, observed: ObservedPlacement) -> None:
        """Stand in line for a move while a place for it is all that is missing."""
        why, owner, wanted = decision.obstacle, observed.owner, decision.wanted
        waits = why is not None and why.reason == Reason.MIGRATION_PENDING
        if waits and owner is not None and wanted is not None:
            self._deps.limits.wait(self._uid, source=owner.node, target=wanted)
        elif not isinstance(decision.step, Move):  # one whose place was taken asks again at once
            self._deps.limits.leave(self._uid)

    def _tell_of_dispute(
        self, placement: ContainerPlacement, status: PlacementStatus, *, before: PlacementStatus
    ) -> None:
        """Once for the same words: an agent may go on saying so for days."""
        told, found = (find(s.conditions, OWNER_DISPUTED) for s in (before, status))
        if found is not None and (told is None or told.message != found.message):
            self._deps.recorder.record_warning(placement, reason=found.reason, note=found.message)
            logger.bind(placement=placement.metadata.name).warning(found.message)

    def _writer_for(
        self, placement: ContainerPlacement
    ) -> StatusWriter[ContainerPlacement, PlacementStatus]:
        if self._writer is None:
            self._writer = StatusWriter(
                placement,
                placement.status,
                cluster=self._deps.cluster,
                cache=self._deps.cache,
            )
        return self._writer

    async def _observe(
        self, placement: ContainerPlacement, status: PlacementStatus
    ) -> ObservedPlacement:
        agent_poller = self._deps.agent_poller
        migrations = self._deps.cache.migrations_of(self._uid)
        observed = ObservedPlacement(
            placement=placement,
            status=status,
            nodes=agent_poller.nodes(),
            reported_copies=agent_poller.reported_copies(self._uid),
            migrations=migrations,
            now=self._deps.clock.now(),
            full=self._deps.limits.full(self._uid),
            fenced=frozenset(
                n for n in self._concerned(status, migrations) if agent_poller.fenced(n)
            ),
            never_ordered=self._was_never_ordered(status),
            unreported_nodes=agent_poller.unreported_nodes(),
        )
        if observed.current_migration is not None:
            return observed  # the agents are busy with the move, whose loop asks them
        return await self._ask(observed)

    def _was_never_ordered(self, status: PlacementStatus) -> bool:
        """Whether nothing can have been ordered yet; a status that is empty may have been lost."""
        unplaced = status.node is None and status.epoch == 0 and status.container is None
        return unplaced and (self._is_new or status.observed_generation > 0)

    def _concerned(self, status: PlacementStatus, migrations: Migrations) -> set[str]:
        nodes = {status.node} if status.node is not None else set()
        return nodes | {n for m in migrations for n in (m.spec.source_node, m.spec.target_node)}

    async def _ask(self, observed: ObservedPlacement) -> ObservedPlacement:
        """Hear the owner afresh; at the end also every agent that may have something."""
        owner = observed.owner
        nodes = {owner.node} if owner is not None else set()
        nodes |= {claim.node for claim in observed.claims}  # a list may be older than the last move
        if observed.deleting:
            nodes |= {s.node for s in observed.reported_copies}
            nodes |= self._concerned(observed.status, observed.migrations)
        asked = sorted(nodes)
        answers = await asyncio.gather(*(self._ask_agent(node, observed) for node in asked))
        others = [s for s in observed.reported_copies if s.node not in nodes]
        return replace(
            observed,
            reported_copies=(*others, *(a for a in answers if isinstance(a, ReportedCopy))),
            unanswered=frozenset(n for n, a in zip(asked, answers, strict=True) if a is NO_ANSWER),
        )

    async def _ask_agent(
        self, node: str, observed: ObservedPlacement
    ) -> ReportedCopy | NoAnswer | None:
        """A silence that has not lasted yet changes nothing of what was last heard."""
        try:
            report = await self._deps.agent_poller.agent(node).container(self._uid)
        except TransshipError:
            earlier = copy_at(observed.reported_copies, node)
            return NO_ANSWER if earlier is None or self._deps.agent_poller.silent(node) else earlier
        self._deps.agent_poller.note(node, self._uid, report)
        return None if report is None else ReportedCopy(node, report)

    def _failed(
        self, decision: Decision, placement: ContainerPlacement, error: TransshipError
    ) -> tuple[Decision, float]:
        pause = self._put_off(placement, type(decision.step).__name__, error)
        self._deps.limits.step_aside(self._uid)
        return Decision(Wait(pause), from_error(error), decision.wanted), pause

    def _put_off(self, placement: ContainerPlacement, step: str, error: TransshipError) -> float:
        """Tell of a step that was not taken; returns when to try again, later each time."""
        pause = self._retry_seconds
        self._retry_seconds = min(pause * 2, LONGEST_RETRY_SECONDS)
        self._deps.metrics.pass_failed("placement", error.reason)
        log = logger.bind(placement=placement.metadata.name, step=step, retry_seconds=pause)
        log.bind(error=str(error)).debug("step not taken")
        if not isinstance(error, Conflict):
            self._deps.recorder.record_warning(placement, reason=error.reason, note=str(error))
        return pause

    async def _prune(self, placement: ContainerPlacement, observed: ObservedPlacement) -> None:
        """Keep the history within its limits."""
        for migration in expired_history(observed.migrations, placement, silent=observed.silent):
            meta = migration.metadata
            with suppress(TransshipError):  # somebody else did it, or the next pass does
                await self._deps.cluster.delete(
                    ContainerMigration, name=meta.name, namespace=meta.namespace, uid=meta.uid
                )
            self._deps.cache.drop(migration)

    async def _end(self, placement: ContainerPlacement) -> float | None:
        try:
            await remove_finalizer(placement, cluster=self._deps.cluster)
        except TransshipError as e:
            return self._put_off(placement, "LetGo", e)
        logger.bind(placement=placement.metadata.name).info("placement deleted")
        return None
