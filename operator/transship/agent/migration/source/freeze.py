"""The freeze: from here on clients wait. A cold move ends the instance instead."""

from __future__ import annotations

from contextlib import suppress

from loguru import logger

from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.migration.source.deps import SourceDeps
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agentapi.states import SideState
from transship.api.migration import StepName
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError


class Freeze:
    """Stops outgoing containers, after the journal has Frozen."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps

    async def run(self, outgoing: OutgoingMigration) -> None:
        """Write Frozen, then stop the container. Raises Refused where it was restarted."""
        order, journal = outgoing.order, self._deps.journal
        _settle_instance(outgoing, await self._deps.residents.wait_for_step(order.container))
        record = transitions.frozen(
            self._deps.record(order.container), migration=order.migration, peer=order.target
        )
        if outgoing.is_cold:
            # no instance any more, neither to thaw nor to report as lost (Rollback._run_on)
            journal.put(record.but(started_boot="", probes=None))
        else:
            journal.put(record.but(started_boot=journal.boot))
        self._deps.residents.disown(order.container)
        # from here on every byte that waits prolongs the blackout
        outgoing.preparation.bandwidth.lift()
        outgoing.progress.state = SideState.FROZEN
        if outgoing.is_cold:
            began = await self._end_instance(outgoing, record)
        else:
            began = await self._freeze_instance(outgoing, record)
        outgoing.watch.note(StepName.FREEZE, seconds=self._deps.clock.monotonic() - began)

    async def _end_instance(self, outgoing: OutgoingMigration, record: Record) -> float:
        """Cold: end it by its stop signal, unless it has ended by itself. Returns the time."""
        residents = self._deps.residents
        began = outgoing.freeze.frozen_at = self._deps.clock.monotonic()
        if outgoing.preparation.instance is not None:
            if await residents.record_exit(record.id):
                outgoing.preparation.instance = None
            else:
                await residents.stop(record.id)
        # a container that ended before its node was restarted has no network here
        with suppress(NotFound):
            self._deps.network.divert(record, via=outgoing.order.target)
            self._deps.network.block(record)
        return began

    async def _freeze_instance(self, outgoing: OutgoingMigration, record: Record) -> float:
        """Freeze it; one that ends at this very moment moves cold. Returns the time."""
        residents, checkpoints = self._deps.residents, self._deps.checkpoints
        self._deps.network.divert(record, via=outgoing.order.target)
        await self._deps.network.await_reads(record)
        began = outgoing.freeze.frozen_at = self._deps.clock.monotonic()
        try:
            await checkpoints.freeze(record.id)
        except TransshipError:
            if residents.instance(record.id) is not None:
                raise
        if residents.instance(record.id) is None:
            await checkpoints.unready(record.id)
            await residents.record_exit(record.id)
            outgoing.continue_cold()
        self._release_throttle(record.id)
        self._deps.network.block(record)
        return began

    def _release_throttle(self, container: str) -> None:
        """Give the CPU quota back: CRIU works inside the container's cgroup.

        The container is frozen, so it does not run however high the quota. A rollback tries again.
        """
        try:
            self._deps.cpu_throttle.release(container)
        except TransshipError as e:
            logger.bind(container=container).warning(
                "the container's CPU quota is still reduced, the dump will be slow: {}", e
            )


def _settle_instance(outgoing: OutgoingMigration, instance: int | None) -> None:
    """Decide, for the last time before the freeze, what moves. `instance` is what runs now."""
    if outgoing.ordered_strategy.ends_instance:
        outgoing.preparation.instance = instance
    elif instance is None:
        outgoing.continue_cold()
    elif instance != outgoing.preparation.instance:
        raise Refused(
            "the container was started anew just before its handover",
            reason=Reason.CONTAINER_RESTARTED,
            hint=Reason.CONTAINER_RESTARTED.hint,
        )
