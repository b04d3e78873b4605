"""The source's role in migrations: orders, reports, recovery after a restart.

The work is done by handover (up to the release), rollback (after an abort) and completion (after
the release). The HTTP routes call this for the operator and for peers, the agent at its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from transship import strategies
from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import Record
from transship.agent.journal.recovery import RecoveryStep
from transship.agent.migration.source.completion import Completion
from transship.agent.migration.source.deps import SourceDeps, cancelled
from transship.agent.migration.source.handover import Handover
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.rollback import Rollback
from transship.agentapi.migrations import MigrationReport, OutgoingOrder, VerdictReply
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.common.tasks import for_each

__all__ = ["Source", "SourceDeps"]

CLOSE_SECONDS = 10.0
"""For rollbacks when the agent ends: a disk may refuse the abort for ever."""


class Source:
    """Moves containers away. One object per agent; one OutgoingMigration per migration."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._outgoing: dict[str, OutgoingMigration] = {}
        self._handover = Handover(deps)
        self._rollback = Rollback(deps)
        self._completion = Completion(deps, self._rollback)
        self._closing = False

    async def begin(self, order: OutgoingOrder) -> MigrationReport:
        """Begin to move the container away; a repeated order reports the migration under way."""
        known = self._outgoing.get(order.migration)
        if known is not None:
            return known.report()
        if self._closing:
            raise Refused("this agent is ending", reason=Reason.AGENT_RESTARTED)
        record = self._deps.record(order.container)
        recovery.require_movable(record, order)
        self._require_no_other(order)
        self._deps.journal.put(
            transitions.outgoing(record, migration=order.migration, peer=order.target)
        )
        outgoing = self._outgoing_of(order)
        # a task of its own: an abort cancels the handover, and can never cancel the rollback
        outgoing.handover_task = asyncio.create_task(self._handover.go(outgoing))
        outgoing.task = asyncio.create_task(self._run(outgoing, outgoing.handover_task))
        return outgoing.report()

    def report(self, migration: str) -> MigrationReport | None:
        outgoing = self._outgoing.get(migration)
        return None if outgoing is None else outgoing.report()

    def verdict(self, migration: str) -> VerdictReply:
        """The verdict in the journal; it also knows migrations from before a restart."""
        record = self._deps.journal.of_migration(migration)
        epoch = 0 if record is None else record.epoch
        return VerdictReply(verdict=transitions.verdict(record, migration), epoch=epoch)

    async def abort(self, migration: str, *, container: str) -> MigrationReport:
        """Cancel the migration unless it is released already; the report has the verdict."""
        outgoing = self._outgoing.get(migration)
        if outgoing is None:
            return self._forbid(migration, self._deps.record(container))
        if outgoing.progress.verdict is Verdict.UNDECIDED and outgoing.task is not None:
            outgoing.cancelled = True
            if outgoing.handover_task is not None:
                outgoing.handover_task.cancel()
            await asyncio.wait([outgoing.task])
        return outgoing.report()

    def _forbid(self, migration: str, record: Record) -> MigrationReport:
        """Write an abort for an unknown migration: its order may come after the abort."""
        aborted = transitions.aborted(record, migration=migration)
        if aborted != record:
            self._deps.journal.put(aborted)
        return MigrationReport(
            migration=migration, state=SideState.CANCELLED, verdict=Verdict.ABORTED
        )

    def _require_no_other(self, order: OutgoingOrder) -> None:
        """Raise Refused while another migration of the container is not over.

        That includes its rollback: the abort is written before the container is thawed.
        """
        for other in self._outgoing.values():
            if other.order.container == order.container and not _is_over(other):
                raise Refused(
                    f"migration {other.order.migration} of container {order.container} is ending",
                    reason=Reason.IN_MIGRATION,
                )

    async def forget(self, migration: str, *, gone: Collection[str] = ()) -> None:
        """Destroy what is left of the copy and drop the record: the operator has noted the end.

        `gone` are nodes that an administrator has fenced: they need no more memory.
        """
        outgoing = self._outgoing.get(migration)
        if outgoing is None:
            return
        if not _is_over(outgoing):
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if outgoing.progress.verdict is Verdict.RELEASED:
            record = self._deps.journal.get(outgoing.order.container)
            if record is not None and record.memory_goes_to is not None:
                if record.peer is None or record.peer.node not in gone:
                    # it ends by itself, once the target has all of its memory
                    outgoing.completion.is_forgotten = True
                    return
                self._deps.journal.put(transitions.memory_sent(record))
            await self._end_released(outgoing)
        self._outgoing.pop(migration, None)

    async def _end_released(self, outgoing: OutgoingMigration) -> None:
        # under the lock: a repetition finds no record, or that of another migration
        async with outgoing.completion.lock:
            # a second unmount beside the task's own would find the mount busy
            if outgoing.task is not None:
                outgoing.task.cancel()
                await asyncio.wait([outgoing.task])
            await self._rollback.close_streams(outgoing)
            record = self._deps.journal.get(outgoing.order.container)
            if record is not None and record.migration == outgoing.order.migration:
                await self._completion.destroy(record)
                self._deps.journal.remove(record.id, floor=record.epoch + 1)

    async def vacate(self, container: str) -> None:
        """Remove what an earlier move has left here: another move brings the container back."""
        record = self._deps.journal.get(container)
        if record is not None and record.state is RecordState.RELEASED and record.migration:
            recovery.require_memory_sent(record)
            await self.forget(record.migration)

    async def recover(self) -> None:
        """After a restart: abort what is undecided, complete what is released."""
        await for_each(
            self._deps.journal.all(), self._recover, doing="recovering", name=lambda r: r.id
        )

    async def _recover(self, record: Record) -> None:
        recovery_step = recovery.after_restart(record)
        if recovery_step is RecoveryStep.FINISH:
            outgoing = self._outgoing_of(_order_of(record))
            outgoing.progress.state = SideState.RELEASED
            outgoing.progress.verdict = Verdict.RELEASED
            outgoing.task = asyncio.create_task(self._completion.finish(outgoing))
        elif recovery_step is RecoveryStep.KEEP:
            cause = TransshipError("the source's agent was restarted", reason="AgentRestarted")
            await self._rollback.roll_back(self._outgoing_of(_order_of(record)), cause)

    async def close(self) -> None:
        """Before the agent ends: roll back what is not released, so that it runs on here."""
        self._closing = True
        tasks = []
        for outgoing in self._outgoing.values():
            if outgoing.task is None:
                continue
            tasks.append(outgoing.task)
            # everything but a rollback
            if outgoing.is_handing_over or outgoing.progress.verdict is Verdict.RELEASED:
                outgoing.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        await self._rollback.close()

    def _outgoing_of(self, order: OutgoingOrder) -> OutgoingMigration:
        outgoing = OutgoingMigration(order, clock=self._deps.clock)
        self._outgoing[order.migration] = outgoing
        return outgoing

    async def _run(self, outgoing: OutgoingMigration, handover: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait([handover])
        except asyncio.CancelledError:
            # the agent ends: it must not leave a frozen container
            handover.cancel()
            await asyncio.wait([handover])
            if outgoing.progress.verdict is Verdict.RELEASED:
                raise
        cause = cancelled() if handover.cancelled() else handover.exception()
        try:
            if cause is None:
                await self._completion.finish(outgoing)
            else:
                await self._rollback.roll_back(outgoing, cause)
        finally:
            outgoing.leave_queue()


def _is_over(outgoing: OutgoingMigration) -> bool:
    """Whether the container is the target's, or runs on here with the abort written."""
    return outgoing.progress.state.finished or outgoing.progress.verdict is Verdict.RELEASED


def _order_of(record: Record) -> OutgoingOrder:
    """The order of a migration that was under way when the agent ended, as the record has it."""
    if record.migration is None or record.peer is None:
        raise NotFound(f"container {record.id} is in no migration")
    released = record.state is RecordState.RELEASED
    return OutgoingOrder(
        migration=record.migration,
        container=record.id,
        epoch=record.epoch - 1 if released else record.epoch,
        target=record.peer,
        strategy=strategies.after_release(memory_follows=record.memory_goes_to is not None).name,
    )
