"""The target's half of a migration: prepare, receive, restore held, and wait for the verdict.

A held copy is neither thrown away nor run on this side's own judgement: only the source's
verdict ends that state, heard from the source, asked for, or relayed by the operator. Called by the
server and at start-up (`recover`).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.agent import records
from transship.agent.arrival import Arrival
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
RESTORE_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class TargetParts:
    """What a Target works with."""

    journal: Journal
    copies: Copies
    bundles: Bundles
    wires: Wires
    residents: Residents
    peers: PeerClient
    clock: Clock
    scratch: Path


class Target:
    """Takes containers in. One object per agent; one Arrival per migration."""

    def __init__(self, parts: TargetParts) -> None:
        self._with = parts
        self._arrivals: dict[str, Arrival] = {}

    async def begin(self, order: IncomingOrder) -> MigrationReport:
        """Prepare everything that can be had before the source begins; a repetition reports."""
        known = self._arrivals.get(order.migration)
        if known is not None and known.state is not SideState.FAILED:
            return known.report()
        journal, wanted = self._with.journal, order.order
        record = records.arriving(
            journal.get(wanted.id), order, boot=journal.boot, floor=journal.floor(wanted.id)
        )
        arrival = Arrival(
            migration=order.migration,
            container=wanted.id,
            epoch=wanted.epoch,
            watch=Stopwatch(self._with.clock),
            order=order,
        )
        self._arrivals[order.migration] = arrival
        journal.put(record)
        arrival.preparation = asyncio.create_task(self._prepare(arrival, record))
        return arrival.report()

    def report(self, migration: str) -> MigrationReport | None:
        arrival = self._arrivals.get(migration)
        return None if arrival is None else arrival.report()

    async def memory(self, migration: str) -> MemoryEndpoint:
        """The source's dump is near: open the page server."""
        arrival = self._prepared(migration)
        async with arrival.lock:
            record = self._record(arrival)
            node = "" if record.peer is None else record.peer.node
            return await self._with.copies.receive(arrival.container, node=node)

    async def hold(self, migration: str) -> None:
        """Queue what is diverted here until the copy runs."""
        arrival = self._prepared(migration)
        self._with.wires.hold(self._record(arrival))

    async def receive_files(self, hello: Hello, client: str, stream: Stream) -> None:
        """Serve one run of the source's file copy (a handler of transfer.streams)."""
        arrival = self._prepared(hello.migration)
        record = self._record(arrival)
        if record.peer is None or client != agent_name(record.peer.node):
            raise Refused(f"{client} is not the source of {hello.migration}", reason="NotPermitted")
        await accept(stream)
        await receive_trees(
            self._with.bundles.home(arrival.container),
            config=self._with.scratch / f"{arrival.container}-{os.urandom(4).hex()}.rsync",
            stream=stream,
            timeout_seconds=RECEIVE_TIMEOUT_SECONDS,
        )

    async def restore(
        self, migration: str, request: RestoreRequest, *, body: bytes
    ) -> RestoreReply:
        """Restore the dump, held. A failure leaves nothing that could run."""
        arrival = self._prepared(migration)
        watch = Stopwatch(self._with.clock)
        async with arrival.lock:
            record = self._record(arrival)
            if record.state is RecordState.HELD:
                return RestoreReply()
            try:
                if arrival.order is None or arrival.order.strategy is not Strategy.COLD:
                    await self._restore_copy(arrival, body=body, watch=watch)
            except BaseException as e:
                arrival.fail(e)
                await asyncio.shield(self._discard(arrival))
                raise
            with watch.part("Journal"):
                self._with.journal.put(records.held(record, boot=self._with.journal.boot))
            arrival.state = SideState.HELD
            arrival.asking = asyncio.create_task(self._ask(arrival))
        return RestoreReply(parts=watch.parts)

    async def decide(self, notice: VerdictNotice) -> ResumeReply:
        """Obey the source's verdict. A repeated one is answered with what it has led to."""
        began = self._with.clock.monotonic()
        arrival = self._arrivals.get(notice.migration)
        record = self._with.journal.of_migration(notice.migration)
        if record is not None and record.arrived_by == notice.migration:
            return ResumeReply(state=SideState.RUNNING)
        if arrival is None or record is None:
            raise NotFound(f"migration {notice.migration} does not arrive here")
        if notice.verdict is Verdict.ABORTED:
            return await self._give_up(arrival)
        if notice.verdict is not Verdict.RELEASED:
            raise Refused(f"{notice.verdict} is no verdict to act on", reason="NotPermitted")
        async with arrival.lock:
            return await self._go(arrival, notice, began=began)

    async def abort(self, migration: str) -> MigrationReport:
        """Throw away what was prepared. A held copy is refused: its source may have released it."""
        arrival = self._arrival(migration)
        record = self._with.journal.of_migration(migration)
        if record is not None and record.state is RecordState.HELD:
            raise Refused(
                f"migration {migration} is held here: only the source's verdict ends that",
                reason="Held",
                hint="abort it at the source",
            )
        if arrival.state is not SideState.RUNNING:
            await self._give_up(arrival)
        return arrival.report()

    async def forget(self, migration: str) -> None:
        """The operator has noted the end of the migration."""
        arrival = self._arrivals.get(migration)
        if arrival is not None and not arrival.state.finished:
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        self._arrivals.pop(migration, None)

    async def recover(self) -> None:
        """After a restart: what was prepared is thrown away, what is held waits for the verdict."""
        for record in self._with.journal.all():
            if record.migration is None:
                continue
            if record.state is RecordState.INCOMING:
                arrival = self._arrival_of(record)
                arrival.fail(
                    TransshipError("the target's agent was restarted", reason="AgentRestarted")
                )
                await self._discard(arrival)
            elif record.state is RecordState.HELD:
                arrival = self._arrival_of(record)
                arrival.state = SideState.HELD
                arrival.asking = asyncio.create_task(self._ask(arrival))

    def _arrival_of(self, record: Record) -> Arrival:
        arrival = Arrival(
            migration=record.migration or "",
            container=record.id,
            epoch=record.epoch,
            watch=Stopwatch(self._with.clock),
        )
        self._arrivals[arrival.migration] = arrival
        return arrival

    def _arrival(self, migration: str) -> Arrival:
        arrival = self._arrivals.get(migration)
        if arrival is None:
            raise NotFound(f"migration {migration} does not arrive here")
        return arrival

    def _prepared(self, migration: str) -> Arrival:
        arrival = self._arrival(migration)
        if arrival.state not in {SideState.PREPARED, SideState.HELD}:
            raise Refused(f"migration {migration} is {arrival.state} here", reason="WrongState")
        return arrival

    def _record(self, arrival: Arrival) -> Record:
        record = self._with.journal.get(arrival.container)
        if record is None or record.migration != arrival.migration:
            raise NotFound(f"migration {arrival.migration} does not arrive here")
        return record

    async def _prepare(self, arrival: Arrival, record: Record) -> None:
        try:
            with arrival.watch.step(StepName.PREPARE):
                digest = await self._with.bundles.prepare(record)
                await asyncio.to_thread(self._with.wires.create_held, record)
                self._with.journal.put(record.but(image_digest=digest))
            arrival.state = SideState.PREPARED
        except Exception as e:  # reported; the operator decides what follows
            logger.bind(migration=arrival.migration).warning("preparing failed: {}", e)
            arrival.fail(e)
            await self._discard(arrival)

    async def _restore_copy(self, arrival: Arrival, *, body: bytes, watch: Stopwatch) -> None:
        copies, container = self._with.copies, arrival.container
        with watch.part("ReceivePages"):
            await copies.received(container, timeout_seconds=PAGES_TIMEOUT_SECONDS)
        with watch.part("UnpackImages"):
            images.unpack(body, copies.images(container))
        with watch.part("Mount"):
            await self._with.bundles.mount(container)
        with watch.part("Restore"):
            restored = await copies.restore(container, timeout_seconds=RESTORE_TIMEOUT_SECONDS)
        arrival.pid = restored.pid

    async def _go(self, arrival: Arrival, notice: VerdictNotice, *, began: float) -> ResumeReply:
        watch = Stopwatch(self._with.clock)
        with watch.part("RunJournal"):
            record = self._with.journal.put(records.running(self._record(arrival), notice))
        with watch.part("Thaw"):
            await self._run(arrival, record)
        resumed = self._with.clock.monotonic()
        with watch.part("Release"):
            self._with.wires.release(record)
        arrival.state = SideState.RUNNING
        arrival.resume_microseconds = round((resumed - began) * 1e6)
        if arrival.asking is not None and arrival.asking is not asyncio.current_task():
            arrival.asking.cancel()
        arrival.settling = asyncio.create_task(self._with.copies.settle(record.id))
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
        if arrival.order is not None and arrival.order.strategy is Strategy.COLD:
            if record.state is RecordState.RUNNING:
                await self._with.residents.start(record)
            return
        await self._with.copies.resume(record.id)
        self._with.residents.adopt(record, pid=arrival.pid)

    async def _give_up(self, arrival: Arrival) -> ResumeReply:
        if arrival.preparation is not None:
            arrival.preparation.cancel()
            await asyncio.wait([arrival.preparation])
        async with arrival.lock:
            if arrival.state is not SideState.RUNNING:
                record = self._with.journal.of_migration(arrival.migration)
                if record is not None and record.state is RecordState.HELD:
                    # the source has undone its detour before it said Aborted
                    await asyncio.to_thread(self._with.wires.give_back, record)
                await self._discard(arrival)
                arrival.state = SideState.CANCELLED
        return ResumeReply(state=arrival.state)

    async def _discard(self, arrival: Arrival) -> None:
        """Leave nothing behind. The record goes last: after a crash in here it starts again."""
        record = self._with.journal.of_migration(arrival.migration)
        if record is None or record.state not in {RecordState.INCOMING, RecordState.HELD}:
            return
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
            except TransshipError as e:
                logger.bind(migration=arrival.migration).warning("no verdict yet: {}", e)
