"""The target's half of a migration: prepare, receive, restore held, and wait for the verdict.

A held copy is neither thrown away nor run on this side's own judgement: only the source's
verdict ends that state, heard from the source, asked for, or relayed by the operator. Called by the
server and at start-up (`recover`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from loguru import logger

from transship.agent import duties, records
from transship.agent.arrival import Arrival
from transship.agent.duties import Answer, Duty
from transship.agent.journal import Journal
from transship.agent.peers import PeerClient
from transship.agent.ports import Bundles, Copies, Residents, Wires
from transship.agent.records import Record
from transship.agent.stopwatch import Stopwatch
from transship.api.migration import BlackoutPart, StepName
from transship.api.placement import Strategy
from transship.common.certificates import agent_name
from transship.common.clock import Clock
from transship.common.errors import NotFound, Refused, TransshipError
from transship.protocol.migrations import (
    IncomingOrder,
    MemoryEndpoint,
    MigrationReport,
    RestoreReply,
    RestoreRequest,
    ResumeReply,
    VerdictNotice,
)
from transship.protocol.states import RecordState, SideState, Verdict
from transship.transfer import images
from transship.transfer.files import receive_trees
from transship.transfer.streams import Hello, Stream, accept

ASK_SECONDS = (0.5, 1.0, 2.0, 5.0)
"""Between questions for a verdict that has not come; the last one repeats."""

RECEIVE_TIMEOUT_SECONDS = 24 * 3600.0
PAGES_TIMEOUT_SECONDS = 10.0
RESTORE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class TargetParts:
    """What a Target works with.

    vacate ends what an earlier move away has left of a container here (source.Source.vacate).
    """

    journal: Journal
    copies: Copies
    bundles: Bundles
    wires: Wires
    residents: Residents
    peers: PeerClient
    clock: Clock
    vacate: Callable[[str], Awaitable[None]]


class Target:
    """Takes containers in. One object per agent; one Arrival per migration."""

    def __init__(self, parts: TargetParts) -> None:
        self._with = parts
        self._arrivals: dict[str, Arrival] = {}

    async def begin(self, order: IncomingOrder) -> MigrationReport:
        """Prepare everything that can be had before the source begins; a repetition reports."""
        known = self._arrivals.get(order.migration)
        if known is not None:
            return known.report()
        self._arriving(order)  # refuse at once what cannot be
        arrival = Arrival(
            migration=order.migration,
            container=order.order.id,
            epoch=order.order.epoch,
            watch=Stopwatch(self._with.clock),
            order=order,
        )
        self._arrivals[order.migration] = arrival
        arrival.preparation = asyncio.create_task(self._prepare(arrival, order))
        return arrival.report()

    def report(self, migration: str) -> MigrationReport | None:
        arrival = self._arrivals.get(migration)
        return None if arrival is None else arrival.report()

    async def memory(self, migration: str) -> MemoryEndpoint:
        """The source's dump is near: open the page server."""
        async with self._prepared(migration).lock:
            arrival = self._prepared(migration)  # it may have ended while this waited
            record = self._record(arrival)
            node = "" if record.peer is None else record.peer.node
            return await self._with.copies.receive(arrival.container, node=node)

    async def hold(self, migration: str) -> None:
        """Queue what is diverted here until the copy runs."""
        arrival = self._prepared(migration)
        arrival.holding = True
        self._with.wires.hold(self._record(arrival))

    async def receive_files(self, hello: Hello, client: str, stream: Stream) -> None:
        """Serve one run of the source's file copy (a handler of transfer.streams)."""
        arrival = self._prepared(hello.migration)
        record = self._record(arrival)
        if record.peer is None or client != agent_name(record.peer.node):
            raise Refused(f"{client} is not the source of {hello.migration}", reason="NotPermitted")
        with arrival.receiving():
            await accept(stream)
            await receive_trees(
                self._with.bundles.home(arrival.container),
                stream=stream,
                timeout_seconds=RECEIVE_TIMEOUT_SECONDS,
            )

    async def restore(
        self, migration: str, request: RestoreRequest, *, body: bytes
    ) -> RestoreReply:
        """Restore the dump, held. A failure leaves nothing that could run."""
        watch = Stopwatch(self._with.clock)
        async with self._prepared(migration).lock:
            arrival = self._prepared(migration)  # it may have ended while this waited
            if self._record(arrival).state is RecordState.HELD:
                return RestoreReply()
            cold = arrival.order is not None and arrival.order.strategy is Strategy.COLD
            try:
                if not cold:
                    await self._restore_copy(arrival, body=body, watch=watch)
                with watch.part("Journal"):
                    # Cold: no instance, neither to resume nor to report as lost; see _run
                    boot = "" if cold else self._with.journal.boot
                    self._with.journal.put(records.held(self._record(arrival), boot=boot))
            except BaseException as e:
                await self._fail(arrival, e)
                raise
            arrival.state = SideState.HELD
            arrival.asking = asyncio.create_task(self._ask(arrival))
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
                    return await self._go(arrival, notice, began=began)
            case Answer.THROW_AWAY:
                return await self._give_up(arrival)

    async def abort(self, migration: str) -> MigrationReport:
        """Throw away what was prepared. A held copy is refused: its source may have released it."""
        arrival = self._arrival(migration)
        await _stop(arrival.preparation)
        async with arrival.lock:  # a restore under way is waited for: it may end as held
            duties.require_unheld(self._with.journal.get(arrival.container), migration)
            await self._throw_away(arrival)
        return arrival.report()

    async def forget(self, migration: str) -> None:
        """The operator has noted the end of the migration."""
        arrival = self._arrivals.get(migration)
        if arrival is not None and not arrival.state.finished:
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if arrival is not None:
            async with arrival.lock:
                await self._discard(arrival)
            if arrival.settling is not None:  # a next dump writes where this removes
                await asyncio.wait([arrival.settling])
        self._arrivals.pop(migration, None)

    async def recover(self) -> None:
        """After a restart: what was prepared is thrown away, what is held waits for the verdict."""
        for record in self._with.journal.all():
            duty = duties.after_restart(record)
            if duty is Duty.DISCARD:
                cause = TransshipError("the target's agent was restarted", reason="AgentRestarted")
                await self._fail(self._arrival_of(record), cause)
            elif duty is Duty.ASK:
                arrival = self._arrival_of(record)
                arrival.asking = asyncio.create_task(self._ask(arrival))

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

    def _arriving(self, order: IncomingOrder) -> Record:
        journal, container = self._with.journal, order.order.id
        return records.arriving(
            journal.get(container), order, boot=journal.boot, floor=journal.floor(container)
        )

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

    def _record(self, arrival: Arrival) -> Record:
        record = self._with.journal.get(arrival.container)
        if record is None or arrival.migration not in {record.migration, record.arrived_by}:
            raise NotFound(f"migration {arrival.migration} does not arrive here")
        return record

    def _state(self, arrival: Arrival) -> RecordState | None:
        """Of the record, while it is about this arrival."""
        record = self._with.journal.get(arrival.container)
        mine = record is not None and record.migration == arrival.migration
        return record.state if record is not None and mine else None

    async def _prepare(self, arrival: Arrival, order: IncomingOrder) -> None:
        journal = self._with.journal
        try:
            with arrival.watch.step(StepName.PREPARE):
                await self._with.vacate(arrival.container)
                record = journal.put(self._arriving(order))
                digest = await self._with.bundles.prepare(record)
                await _in_thread(self._with.wires.create_held, record)
                journal.put(self._record(arrival).but(image_digest=digest))
            arrival.state = SideState.PREPARED
        except Exception as e:  # reported; the operator decides what follows
            logger.bind(migration=arrival.migration).warning("preparing failed: {}", e)
            await self._fail(arrival, e)

    async def _fail(self, arrival: Arrival, cause: BaseException) -> None:
        """Failed is said when nothing is left; what cannot be removed now, abort or forget will."""
        try:
            await self._discard(arrival)
        except Exception as e:
            log = logger.bind(migration=arrival.migration, error=str(e))
            log.warning("parts of a failed arrival are left")
        arrival.fail(cause)

    async def _restore_copy(self, arrival: Arrival, *, body: bytes, watch: Stopwatch) -> None:
        copies, container = self._with.copies, arrival.container
        with watch.part("UnpackImages"):
            images.unpack(body, copies.images(container))
        with watch.part("Mount"):
            await self._with.bundles.mount(container)
        with watch.part("Restore"):
            restored = await copies.restore(container, timeout_seconds=RESTORE_TIMEOUT_SECONDS)
        with watch.part("ReceivePages"):
            await copies.received(container, timeout_seconds=PAGES_TIMEOUT_SECONDS)
        arrival.pid = restored.pid

    async def _go(self, arrival: Arrival, notice: VerdictNotice, *, began: float) -> ResumeReply:
        if arrival.state is SideState.RUNNING:
            return ResumeReply(state=arrival.state, resume_microseconds=arrival.resume_microseconds)
        watch = Stopwatch(self._with.clock)
        with watch.part("RunJournal"):
            record = self._with.journal.put(records.running(self._record(arrival), notice))
        with watch.part("Thaw"):
            await self._run(arrival, record)
        resumed = self._with.clock.monotonic()
        with watch.part("Release"):
            if self._is_of_this_boot(record):
                self._with.wires.release(record)
        arrival.state = SideState.RUNNING
        arrival.resume_microseconds = round((resumed - began) * 1e6)
        if arrival.asking is not None and arrival.asking is not asyncio.current_task():
            arrival.asking.cancel()
        arrival.settling = asyncio.create_task(self._settle(arrival))
        logger.bind(migration=arrival.migration, container=record.id).info(
            "the container runs here"
        )
        return ResumeReply(
            state=SideState.RUNNING,
            resume_microseconds=arrival.resume_microseconds,
            parts=tuple(
                BlackoutPart(name=p.name, microseconds=p.microseconds) for p in watch.parts
            ),
        )

    async def _run(self, arrival: Arrival, record: Record) -> None:
        """The container is ours now: where this fails, its supervisor mends what is left."""
        if arrival.resumed:
            return
        try:
            if not self._is_of_this_boot(record):
                pass  # nothing is left to resume
            elif record.started_boot:
                await self._with.copies.resume(record.id)
            elif record.state is RecordState.RUNNING:
                await self._with.residents.start(record)
        except Exception as e:
            log = logger.bind(migration=arrival.migration, container=record.id, error=str(e))
            log.warning("resuming failed: left to the container's supervisor")
        arrival.resumed = True
        self._with.residents.adopt(record, pid=arrival.pid)

    async def _settle(self, arrival: Arrival) -> None:
        try:
            await self._with.copies.settle(arrival.container)
        except Exception as e:  # memory is lost until the next dump or the container's end
            log = logger.bind(migration=arrival.migration, error=str(e))
            log.warning("what the restore needed is left")

    def _is_of_this_boot(self, record: Record) -> bool:
        return record.ordered_boot == self._with.journal.boot

    async def _give_up(self, arrival: Arrival) -> ResumeReply:
        """The source has said Aborted, after it has undone its detour."""
        await _stop(arrival.preparation)
        async with arrival.lock:
            if arrival.holding and self._state(arrival) is not None:
                with suppress(Exception):  # packets that are lost are sent again
                    await _in_thread(self._with.wires.give_back, self._record(arrival))
            await self._throw_away(arrival)
        return ResumeReply(state=arrival.state)

    async def _throw_away(self, arrival: Arrival) -> None:
        if self._has_arrived(arrival):
            return
        await self._discard(arrival)
        if not arrival.state.finished:
            arrival.state = SideState.CANCELLED

    def _has_arrived(self, arrival: Arrival) -> bool:
        record = self._with.journal.get(arrival.container)
        return record is not None and record.arrived_by == arrival.migration

    async def _discard(self, arrival: Arrival) -> None:
        """Leave nothing behind. The record goes last: after a crash in here it starts again."""
        if not duties.to_discard(self._with.journal.get(arrival.container), arrival.migration):
            return
        record = self._record(arrival)
        await arrival.end_receiving()
        await self._with.copies.destroy(record.id)
        await asyncio.to_thread(self._with.wires.remove, record)
        await self._with.bundles.remove(record.id)
        self._with.journal.remove(record.id)

    async def _ask(self, arrival: Arrival) -> None:
        """The go may get lost: ask the source until it has an answer to act on."""
        tries = 0
        while arrival.state is SideState.HELD:
            await asyncio.sleep(ASK_SECONDS[min(tries, len(ASK_SECONDS) - 1)])
            tries += 1
            record = self._with.journal.of_migration(arrival.migration)
            if record is None or record.peer is None or record.state is not RecordState.HELD:
                return
            try:
                said = await self._with.peers.verdict(record.peer, arrival.migration)
                if said.verdict in {Verdict.RELEASED, Verdict.ABORTED}:
                    await self.decide(
                        VerdictNotice(
                            migration=arrival.migration, verdict=said.verdict, epoch=said.epoch
                        )
                    )
            except Exception as e:  # whatever it is, only an answer ends the asking
                logger.bind(migration=arrival.migration).warning("no verdict yet: {}", e)


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def _in_thread(work: Callable[[Record], None], record: Record) -> None:
    """A thread cannot be cancelled: whoever is, waits for it, so that nothing passes it."""
    thread = asyncio.create_task(asyncio.to_thread(work, record))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
