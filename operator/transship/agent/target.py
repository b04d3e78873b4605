"""The target's half of a migration: orders, reports and what a restart finds.

The work is done by reception (up to the held copy), takeover (on Released), clearance (on Aborted,
and after failures) and inquiry (as long as there is no verdict). A held copy is neither thrown away
nor run on this side's own judgement: only the source's verdict ends that state, heard from the
source, asked for, or relayed by the operator. Called by the server and at start-up (`recover`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from transship.agent import duties, records
from transship.agent.arrival import Arrival
from transship.agent.clearance import Clearance
from transship.agent.duties import Answer, Duty
from transship.agent.inquiry import Inquiry
from transship.agent.reception import Reception
from transship.agent.records import OWNED, Record
from transship.agent.stopwatch import Stopwatch
from transship.agent.takeover import Takeover
from transship.agent.target_parts import TargetParts
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.protocol.migrations import (
    IncomingOrder,
    MemoryEndpoint,
    MemoryLoss,
    MemoryState,
    MigrationReport,
    RestoreReply,
    RestoreRequest,
    ResumeReply,
    VerdictNotice,
)
from transship.protocol.states import RecordState, SideState
from transship.transfer.streams import Hello, Stream

__all__ = ["Target", "TargetParts"]

KEEPER_LOST_IT = (
    "what gives the container the rest of its memory was killed on the target: it is started anew "
    "there"
)


class Target:
    """Takes containers in. One object per agent; one Arrival per migration."""

    def __init__(self, parts: TargetParts) -> None:
        self._with = parts
        self._arrivals: dict[str, Arrival] = {}
        self._settling: set[asyncio.Task[None]] = set()  # of moves before this agent's start
        self._clearance = Clearance(parts)
        self._reception = Reception(parts, self._clearance)
        self._takeover = Takeover(parts, lose=self._lose)
        self._inquiry = Inquiry(parts, self.decide)

    async def begin(self, order: IncomingOrder) -> MigrationReport:
        """Prepare everything that can be had before the source begins; a repetition reports."""
        known = self._arrivals.get(order.migration)
        if known is not None:
            return known.report()
        self._reception.arriving(order)  # refuse at once what cannot be
        arrival = Arrival(
            migration=order.migration,
            container=order.order.id,
            epoch=order.order.epoch,
            watch=Stopwatch(self._with.clock),
            order=order,
        )
        self._arrivals[order.migration] = arrival
        arrival.preparation = asyncio.create_task(self._reception.prepare(arrival, order))
        return arrival.report()

    def report(self, migration: str) -> MigrationReport | None:
        arrival = self._arrivals.get(migration)
        return None if arrival is None else arrival.report()

    async def memory(self, migration: str) -> MemoryEndpoint:
        """The source's dump is near: open the page server."""
        async with self._prepared(migration).lock:
            arrival = self._prepared(migration)  # it may have ended while this waited
            return await self._reception.open_memory(arrival)

    def memory_state(self, migration: str) -> MemoryState:
        """Asked by the source; of a container that is gone nobody waits for memory any more."""
        record = self._with.journal.of_migration(migration)
        if record is None:
            return MemoryState(awaited=False)
        arrived = record.arrived_by == migration
        return MemoryState(awaited=not arrived or self._with.copies.awaits_memory(record.id))

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None:
        """What is still to come is lost: its source has lost it, says the operator, or its keeper.

        The copy ends, and its supervisor starts it anew as after any other end. One that has all of
        its pages by now runs on. A repetition finds nothing more to end; the first cause stands.
        """
        record = self._with.journal.of_migration(migration)
        if record is None or record.arrived_by != migration:
            raise NotFound(f"migration {migration} has brought no container here")
        if not record.memory_lost:
            if not await self._with.copies.lacks_memory(record.id):
                return
            # first: this agent may end before it could say what it has done
            record = self._with.journal.put(records.memory_lost(record, loss.why))
        await self._with.copies.lose_memory(record.id)
        self._note_lost_memory(record, migration)

    async def _lose(self, container: str) -> None:
        record = self._with.journal.get(container)
        if record is not None and record.arrived_by is not None:
            await self.lose_memory(record.arrived_by, MemoryLoss(why=KEEPER_LOST_IT))

    def _note_lost_memory(self, record: Record, migration: str) -> None:
        arrival = self._arrivals.get(migration)
        if arrival is None:
            arrival = self._arrivals[migration] = Arrival(
                migration=migration,
                container=record.id,
                epoch=record.epoch,
                watch=Stopwatch(self._with.clock),
            )
        arrival.state = SideState.RUNNING
        arrival.failure = TransshipError(
            record.memory_lost, reason=Reason.CONTAINER_LOST, hint=Reason.CONTAINER_LOST.hint
        )

    async def hold(self, migration: str) -> None:
        """Queue what is diverted here until the copy runs."""
        arrival = self._prepared(migration)
        arrival.holding = True
        self._with.wires.hold(self._with.record(arrival))

    async def receive_files(self, hello: Hello, client: str, stream: Stream) -> None:
        """Serve one run of the source's file copy (a handler of transfer.streams)."""
        arrival = self._prepared(hello.migration)
        await self._reception.receive_files(arrival, client=client, stream=stream)

    async def restore(
        self, migration: str, request: RestoreRequest, *, body: AsyncIterable[bytes]
    ) -> RestoreReply:
        """Restore the dump, held. A failure leaves nothing that could run."""
        watch = Stopwatch(self._with.clock)
        async with self._prepared(migration).lock:
            arrival = self._prepared(migration)  # it may have ended while this waited
            if self._with.record(arrival).state is RecordState.HELD:
                return RestoreReply()
            work = self._reception.restore(arrival, request, body=body, watch=watch)
            arrival.restoring = asyncio.create_task(work)
            try:
                await arrival.restoring
            except asyncio.CancelledError as e:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise Refused(f"migration {migration} was called off here") from e
            finally:
                arrival.restoring = None
            self._inquiry.begin(arrival)
        return RestoreReply(parts=watch.parts)

    async def decide(self, notice: VerdictNotice) -> ResumeReply:
        """Obey the source's verdict. A repeated one is answered with what it has led to."""
        began = self._with.clock.monotonic()
        record = self._with.journal.of_migration(notice.migration)
        arrived = record is not None and record.arrived_by == notice.migration
        if arrived and notice.migration not in self._arrivals:
            return ResumeReply(state=SideState.RUNNING)
        arrival = self._arrival(notice.migration)
        match duties.on_verdict(notice):
            case Answer.RUN:
                async with arrival.lock:
                    return await self._takeover.go(arrival, notice, began=began)
            case Answer.THROW_AWAY:
                await self._clearance.give_up(arrival)
                return ResumeReply(state=arrival.state)

    async def abort(self, migration: str) -> MigrationReport:
        """Throw away what was prepared. A held copy is refused: its source may have released it."""
        arrival = self._arrival(migration)
        await arrival.end_preparation()
        await arrival.end_restoring()
        async with arrival.lock:  # it may have ended as held
            duties.require_unheld(self._with.journal.get(arrival.container), migration)
            await self._clearance.throw_away(arrival)
        return arrival.report()

    async def forget(self, migration: str) -> None:
        """The operator has noted the end of the migration."""
        arrival = self._arrivals.get(migration)
        if arrival is not None and not arrival.state.finished:
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if arrival is not None:
            async with arrival.lock:
                await self._clearance.discard(arrival)
            if arrival.settling is not None:  # a next dump writes where this removes
                await asyncio.wait([arrival.settling])
        self._arrivals.pop(migration, None)
        record = self._with.journal.of_migration(migration)
        if record is not None and record.arrived_by == migration and record.memory_lost:
            self._with.journal.put(record.but(memory_lost=""))  # it has been told

    async def recover(self) -> None:
        """After a restart: what was prepared is thrown away, what is held waits for the verdict.

        Beside all else: gigabytes of files may have come by now, and others wait for this agent.
        """
        for record in self._with.journal.all():
            duty = duties.after_restart(record)
            if duty is Duty.DISCARD:
                self._settling.add(asyncio.create_task(self._throw_away(self._arrival_of(record))))
            elif duty is Duty.ASK:
                self._inquiry.begin(self._arrival_of(record))
            elif record.state not in OWNED:
                continue
            elif record.memory_lost and record.arrived_by is not None:
                loss = MemoryLoss(why=record.memory_lost)
                self._settling.add(asyncio.create_task(self.lose_memory(record.arrived_by, loss)))
            elif self._with.copies.awaits_memory(record.id):
                self._settling.add(asyncio.create_task(self._takeover.settle(record.id)))

    async def _throw_away(self, arrival: Arrival) -> None:
        cause = TransshipError("the target's agent was restarted", reason=Reason.AGENT_RESTARTED)
        async with arrival.lock:
            await self._clearance.fail(arrival, cause)

    def _arrival_of(self, record: Record) -> Arrival:
        arrival = Arrival(
            migration=record.migration or "",
            container=record.id,
            epoch=record.epoch,
            watch=Stopwatch(self._with.clock),
        )
        if record.state is RecordState.HELD:
            arrival.state, arrival.holding = SideState.HELD, True
        self._arrivals[arrival.migration] = arrival
        return arrival

    def _arrival(self, migration: str) -> Arrival:
        """The one under way, or what is left of one that was forgotten too early."""
        arrival = self._arrivals.get(migration)
        if arrival is not None:
            return arrival
        record = self._with.journal.of_migration(migration)
        if record is None or record.state not in {RecordState.INCOMING, RecordState.HELD}:
            raise NotFound(f"migration {migration} does not arrive here")
        return self._arrival_of(record)

    def _prepared(self, migration: str) -> Arrival:
        arrival = self._arrival(migration)
        if arrival.state not in {SideState.PREPARED, SideState.HELD}:
            raise Refused(f"migration {migration} is {arrival.state} here", reason="WrongState")
        return arrival
