"""The handover: prepare, freeze, transfer, and the decision, which is the point of no return.

Before the journal has Released every failure is rolled back (rollback); after it the container is
the target's, and the source only completes the move (completion).
"""

from __future__ import annotations

from loguru import logger

from transship.agent.journal import transitions
from transship.agent.migration.source.deps import SourceDeps, cancelled
from transship.agent.migration.source.freeze import Freeze
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.preparation import Preparation
from transship.agent.migration.source.state_transfer import StateTransfer
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import StepName


class Handover:
    """Brings outgoing migrations up to the release."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._preparation = Preparation(deps)
        self._freeze = Freeze(deps)
        self._transfer = StateTransfer(deps)

    async def go(self, outgoing: OutgoingMigration) -> None:
        """Return once the container is released; whatever is raised asks for a rollback."""
        order = outgoing.order
        log = logger.bind(migration=order.migration, container=order.container)
        log.bind(target=order.target.node, strategy=order.strategy).info("migration begins")
        files = await self._preparation.run(outgoing)
        # not before: from here on clients on the target's node wait
        await self._deps.peers.hold(order.target, order.migration)
        with outgoing.watch.step(StepName.FREEZE):
            await self._freeze.run(outgoing)
        await self._transfer.run(outgoing, files)
        with outgoing.watch.step(StepName.DECIDE):
            self._release(outgoing)

    def _release(self, outgoing: OutgoingMigration) -> None:
        """Give the container to the target, unless the move was cancelled.

        Nothing is awaited here: a cancel comes before all of it or after all of it.
        """
        order = outgoing.order
        if outgoing.cancelled:
            raise cancelled()
        page_server = outgoing.preparation.page_server
        record = transitions.released(
            self._deps.record(order.container),
            epoch=order.epoch + 1,
            memory_goes_to=page_server if outgoing.strategy.memory_follows else None,
        )
        outgoing.freeze.release_tried = True

        # ==== THE POINT OF NO RETURN ==================================================
        self._deps.journal.put(record)
        # ==== from here on only the target may run the container ======================

        outgoing.progress.verdict = Verdict.RELEASED
        outgoing.progress.state = SideState.RELEASED
