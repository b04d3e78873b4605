"""The source's half of a migration: orders, reports and what a restart finds.

The work is done by way_forward (up to the release), rollback (an abort) and release (after it).
Called by the server (orders of the operator) and at start-up (`recover`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from transship import strategies
from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import Record
from transship.agent.journal.recovery import RecoveryStep
from transship.agent.migration.source.completion import Release
from transship.agent.migration.source.deps import SourceDeps, cancelled
from transship.agent.migration.source.handover import Handover
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agent.migration.source.rollback import Rollback
from transship.agent.migration.stopwatch import Stopwatch
from transship.agentapi.migrations import MigrationReport, OutgoingOrder, VerdictReply
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.common.tasks import for_each

__all__ = ["Source", "SourceDeps"]

CLOSE_SECONDS = 10.0
"""For ways back, when the agent is asked to end; a disk may refuse the abort for ever."""


class Source:
    """Gives containers away. One object per agent; one OutgoingMigration per migration."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._outgoing: dict[str, OutgoingMigration] = {}
        self._handover = Handover(deps)
        self._rollback = Rollback(deps)
        self._release = Release(deps, self._rollback)
        self._closing = False

    async def begin(self, order: OutgoingOrder) -> MigrationReport:
        """Start giving the container away; a repeated order reports the one under way."""
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
        # a task of its own: an abort ends the way forward, and can never end the way back
        outgoing.forward = asyncio.create_task(self._handover.go(outgoing))
        outgoing.task = asyncio.create_task(self._run(outgoing, outgoing.forward))
        return outgoing.report()

    def report(self, migration: str) -> MigrationReport | None:
        outgoing = self._outgoing.get(migration)
        return None if outgoing is None else outgoing.report()

    def verdict(self, migration: str) -> VerdictReply:
        """What the record says, and nothing else: also for migrations from before a restart."""
        record = self._deps.journal.of_migration(migration)
        epoch = 0 if record is None else record.epoch
        return VerdictReply(verdict=transitions.verdict(record, migration), epoch=epoch)

    async def abort(self, migration: str, *, container: str) -> MigrationReport:
        """Cancel, unless the verdict is Released already: the report says which of the two."""
        outgoing = self._outgoing.get(migration)
        if outgoing is None:
            return self._forbid(migration, self._deps.record(container))
        if outgoing.verdict is Verdict.UNDECIDED and outgoing.task is not None:
            outgoing.cancelled = True
            if outgoing.forward is not None:
                outgoing.forward.cancel()
            await asyncio.wait([outgoing.task])
        return outgoing.report()

    def _forbid(self, migration: str, record: Record) -> MigrationReport:
        """Promise not to begin it: its order may be under way, while the operator notes its end."""
        aborted = transitions.aborted(record, migration=migration)
        if aborted != record:
            self._deps.journal.put(aborted)
        return MigrationReport(
            migration=migration, state=SideState.CANCELLED, verdict=Verdict.ABORTED
        )

    def _require_no_other(self, order: OutgoingOrder) -> None:
        """An abort is written before the container is thawed: the next move waits for that too."""
        for other in self._outgoing.values():
            over = other.state.finished or other.verdict is Verdict.RELEASED
            if other.order.container == order.container and not over:
                raise Refused(
                    f"migration {other.order.migration} of container {order.container} is ending",
                    reason=Reason.IN_MIGRATION,
                )

    async def forget(self, migration: str, *, gone: Collection[str] = ()) -> None:
        """The operator has noted the end: destroy what is left of the copy, drop the record.

        gone: nodes that an administrator has fenced: they want no more memory.
        """
        outgoing = self._outgoing.get(migration)
        if outgoing is None:
            return
        if not (outgoing.state.finished or outgoing.verdict is Verdict.RELEASED):
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if outgoing.verdict is Verdict.RELEASED:
            record = self._deps.journal.get(outgoing.order.container)
            if record is not None and record.memory_goes_to is not None:
                if record.peer is None or record.peer.node not in gone:
                    outgoing.forgotten = True
                    return  # it ends by itself, once the target has all of its memory
                self._deps.journal.put(transitions.memory_sent(record))
            await self._end_released(outgoing)
        self._outgoing.pop(migration, None)

    async def _end_released(self, outgoing: OutgoingMigration) -> None:
        async with outgoing.lock:  # a repetition finds nothing more, or somebody else's record
            if outgoing.task is not None:  # not in mid-unmount, where a second one finds it busy
                outgoing.task.cancel()
                await asyncio.wait([outgoing.task])
            await self._rollback.put_away(outgoing)
            record = self._deps.journal.get(outgoing.order.container)
            if record is not None and record.migration == outgoing.order.migration:
                await self._release.destroy(record)
                self._deps.journal.remove(record.id, floor=record.epoch + 1)

    async def vacate(self, container: str) -> None:
        """Another move brings the container back: what it has left here must be gone before."""
        record = self._deps.journal.get(container)
        if record is not None and record.state is RecordState.RELEASED and record.migration:
            recovery.require_memory_sent(record)
            await self.forget(record.migration)

    async def recover(self) -> None:
        """After a restart: what is undecided is aborted, what is released is brought to its end."""
        await for_each(
            self._deps.journal.all(), self._recover, doing="recovering", name=lambda r: r.id
        )

    async def _recover(self, record: Record) -> None:
        recovery_step = recovery.after_restart(record)
        if recovery_step is RecoveryStep.FINISH:
            outgoing = self._outgoing_of(_order_of(record))
            outgoing.state, outgoing.verdict = SideState.RELEASED, Verdict.RELEASED
            outgoing.task = asyncio.create_task(self._release.finish(outgoing))
        elif recovery_step is RecoveryStep.KEEP:
            cause = TransshipError("the source's agent was restarted", reason="AgentRestarted")
            await self._rollback.roll_back(self._outgoing_of(_order_of(record)), cause)

    async def close(self) -> None:
        """Before the agent ends: what is not released runs on here, and is reached."""
        self._closing = True
        under_way = [each for each in self._outgoing.values() if each.task is not None]
        for each in under_way:
            ahead = each.forward is not None and not each.forward.done()
            if each.task is not None and (ahead or each.verdict is Verdict.RELEASED):
                each.task.cancel()  # a way back is not broken off
        if under_way:
            await asyncio.wait(
                [each.task for each in under_way if each.task is not None],
                timeout=CLOSE_SECONDS,
            )
        await self._rollback.close()

    def _outgoing_of(self, order: OutgoingOrder) -> OutgoingMigration:
        clock = self._deps.clock
        outgoing = OutgoingMigration(order=order, watch=Stopwatch(clock), began=clock.monotonic())
        self._outgoing[order.migration] = outgoing
        return outgoing

    async def _run(self, outgoing: OutgoingMigration, forward: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait([forward])
        except asyncio.CancelledError:  # the agent is asked to end: not with a frozen container
            forward.cancel()
            await asyncio.wait([forward])
            if outgoing.verdict is Verdict.RELEASED:
                raise
        cause = cancelled() if forward.cancelled() else forward.exception()
        try:
            if cause is None:
                await self._release.finish(outgoing)
            else:
                await self._rollback.roll_back(outgoing, cause)
        finally:
            outgoing.leave_queue()


def _order_of(record: Record) -> OutgoingOrder:
    """The order of a migration that was under way when the agent ended, as far as known."""
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
