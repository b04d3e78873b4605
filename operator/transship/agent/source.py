"""The source's half of a migration: orders, reports and what a restart finds.

The work is done by way_forward (up to the release), way_back (an abort) and release (after it).
Called by the server (orders of the operator) and at start-up (`recover`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from transship.agent import duties, records
from transship.agent.departure import Departure
from transship.agent.duties import Duty
from transship.agent.records import Record
from transship.agent.release import Release
from transship.agent.source_parts import SourceParts, cancelled
from transship.agent.stopwatch import Stopwatch
from transship.agent.way_back import WayBack
from transship.agent.way_forward import WayForward
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.common.tasks import for_each
from transship.protocol.migrations import MigrationReport, OutgoingOrder, VerdictReply
from transship.protocol.states import RecordState, SideState, Verdict

__all__ = ["Source", "SourceParts"]

CLOSE_SECONDS = 10.0
"""For ways back, when the agent is asked to end; a disk may refuse the abort for ever."""


class Source:
    """Gives containers away. One object per agent; one Departure per migration."""

    def __init__(self, parts: SourceParts) -> None:
        self._with = parts
        self._departures: dict[str, Departure] = {}
        self._way_forward = WayForward(parts)
        self._way_back = WayBack(parts)
        self._release = Release(parts, self._way_back)
        self._closing = False

    async def begin(self, order: OutgoingOrder) -> MigrationReport:
        """Start giving the container away; a repeated order reports the one under way."""
        known = self._departures.get(order.migration)
        if known is not None:
            return known.report()
        if self._closing:
            raise Refused("this agent is ending", reason=Reason.AGENT_RESTARTED)
        record = self._with.record(order.container)
        duties.require_movable(record, order)
        self._require_no_other(order)
        self._with.journal.put(
            records.departing(record, migration=order.migration, peer=order.target)
        )
        departure = self._departure(order)
        # a task of its own: an abort ends the way forward, and can never end the way back
        departure.forward = asyncio.create_task(self._way_forward.go(departure))
        departure.task = asyncio.create_task(self._run(departure, departure.forward))
        return departure.report()

    def report(self, migration: str) -> MigrationReport | None:
        departure = self._departures.get(migration)
        return None if departure is None else departure.report()

    def verdict(self, migration: str) -> VerdictReply:
        """What the record says, and nothing else: also for migrations from before a restart."""
        record = self._with.journal.of_migration(migration)
        epoch = 0 if record is None else record.epoch
        return VerdictReply(verdict=records.verdict(record, migration), epoch=epoch)

    async def abort(self, migration: str, *, container: str) -> MigrationReport:
        """Cancel, unless the verdict is Released already: the report says which of the two."""
        departure = self._departures.get(migration)
        if departure is None:
            return self._forbid(migration, self._with.record(container))
        if departure.verdict is Verdict.UNDECIDED and departure.task is not None:
            departure.cancelled = True
            if departure.forward is not None:
                departure.forward.cancel()
            await asyncio.wait([departure.task])
        return departure.report()

    def _forbid(self, migration: str, record: Record) -> MigrationReport:
        """Promise not to begin it: its order may be under way, while the operator notes its end."""
        aborted = records.aborted(record, migration=migration)
        if aborted != record:
            self._with.journal.put(aborted)
        return MigrationReport(
            migration=migration, state=SideState.CANCELLED, verdict=Verdict.ABORTED
        )

    def _require_no_other(self, order: OutgoingOrder) -> None:
        """An abort is written before the container is thawed: the next move waits for that too."""
        for other in self._departures.values():
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
        departure = self._departures.get(migration)
        if departure is None:
            return
        if not (departure.state.finished or departure.verdict is Verdict.RELEASED):
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if departure.verdict is Verdict.RELEASED:
            record = self._with.journal.get(departure.order.container)
            if record is not None and record.drains_to is not None:
                if record.peer is None or record.peer.node not in gone:
                    departure.forgotten = True
                    return  # it ends by itself, once the target has all of its memory
                self._with.journal.put(records.drained(record))
            await self._end_released(departure)
        self._departures.pop(migration, None)

    async def _end_released(self, departure: Departure) -> None:
        async with departure.lock:  # a repetition finds nothing more, or somebody else's record
            if departure.task is not None:  # not in mid-unmount, where a second one finds it busy
                departure.task.cancel()
                await asyncio.wait([departure.task])
            await self._way_back.put_away(departure)
            record = self._with.journal.get(departure.order.container)
            if record is not None and record.migration == departure.order.migration:
                await self._release.destroy(record)
                self._with.journal.remove(record.id, floor=record.epoch + 1)

    async def vacate(self, container: str) -> None:
        """Another move brings the container back: what it has left here must be gone before."""
        record = self._with.journal.get(container)
        if record is not None and record.state is RecordState.RELEASED and record.migration:
            duties.require_drained(record)
            await self.forget(record.migration)

    async def recover(self) -> None:
        """After a restart: what is undecided is aborted, what is released is brought to its end."""
        await for_each(
            self._with.journal.all(), self._recover, doing="recovering", name=lambda r: r.id
        )

    async def _recover(self, record: Record) -> None:
        duty = duties.after_restart(record)
        if duty is Duty.FINISH:
            departure = self._departure(_order_of(record))
            departure.state, departure.verdict = SideState.RELEASED, Verdict.RELEASED
            departure.task = asyncio.create_task(self._release.finish(departure))
        elif duty is Duty.KEEP:
            cause = TransshipError("the source's agent was restarted", reason="AgentRestarted")
            await self._way_back.roll_back(self._departure(_order_of(record)), cause)

    async def close(self) -> None:
        """Before the agent ends: what is not released runs on here, and is reached."""
        self._closing = True
        under_way = [each for each in self._departures.values() if each.task is not None]
        for each in under_way:
            ahead = each.forward is not None and not each.forward.done()
            if each.task is not None and (ahead or each.verdict is Verdict.RELEASED):
                each.task.cancel()  # a way back is not broken off
        if under_way:
            await asyncio.wait(
                [each.task for each in under_way if each.task is not None],
                timeout=CLOSE_SECONDS,
            )
        await self._way_back.close()

    def _departure(self, order: OutgoingOrder) -> Departure:
        clock = self._with.clock
        departure = Departure(order=order, watch=Stopwatch(clock), began=clock.monotonic())
        self._departures[order.migration] = departure
        return departure

    async def _run(self, departure: Departure, forward: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait([forward])
        except asyncio.CancelledError:  # the agent is asked to end: not with a frozen container
            forward.cancel()
            await asyncio.wait([forward])
            if departure.verdict is Verdict.RELEASED:
                raise
        cause = cancelled() if forward.cancelled() else forward.exception()
        try:
            if cause is None:
                await self._release.finish(departure)
            else:
                await self._way_back.roll_back(departure, cause)
        finally:
            departure.leave_queue()


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
        strategy=Strategy.STOP_AND_COPY if record.drains_to is None else Strategy.POST_COPY,
    )
