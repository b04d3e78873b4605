"""The source's half of a migration: copy while the container runs, hand over, or take it back.

Everything before `_decide` can be undone and is undone on any failure, nothing after it. The one
line between the two is the journal's Released. Called by the server (orders of the operator) and at
start-up (`recover`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from loguru import logger

from transship.agent import records
from transship.agent.departure import Departure
from transship.agent.filecopy import FileCopy
from transship.agent.journal import Journal, JournalError
from transship.agent.peers import PeerClient
from transship.agent.ports import Bundles, Copies, Dumped, Residents, Wires
from transship.agent.records import Record
from transship.agent.stopwatch import Stopwatch
from transship.api.migration import StepName
from transship.api.placement import Strategy
from transship.common.clock import Clock
from transship.common.errors import NotFound, Refused, TransshipError
from transship.protocol.migrations import (
    MigrationReport,
    OutgoingOrder,
    RestoreRequest,
    ResumeReply,
    VerdictNotice,
    VerdictReply,
)
from transship.protocol.states import RecordState, SideState, Verdict
from transship.transfer import images

GO_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Between tries to bring the verdict to a target that does not answer; the last one repeats."""

MEND_SECONDS = 1.0
"""Between tries to do what an abort still owes: a disk is full, the kernel refuses a route."""

DOWNTIME_MILLISECONDS = 100
"""What a blackout may take where nobody has said; decides how long memory is copied before."""
MEMORY_SHARE = 0.25
"""Of the blackout; the rest is CRIU's dump and restore."""

RESTORE_TIMEOUT_SECONDS = 45.0
"""Longer than the target's own, whose failure says more."""


@dataclass(frozen=True)
class SourceParts:
    """What a Source works with."""

    journal: Journal
    copies: Copies
    bundles: Bundles
    wires: Wires
    residents: Residents
    peers: PeerClient
    streams: ssl.SSLContext
    clock: Clock


class Source:
    """Gives containers away. One object per agent; one Departure per migration."""

    def __init__(self, parts: SourceParts) -> None:
        self._with = parts
        self._departures: dict[str, Departure] = {}
        self._owed: set[asyncio.Task[None]] = set()  # outlive their departures

    async def begin(self, order: OutgoingOrder) -> MigrationReport:
        """Start giving the container away; a repeated order reports the one under way."""
        known = self._departures.get(order.migration)
        if known is not None:
            return known.report()
        record = self._record(order.container)
        _require_movable(record, order)
        self._with.journal.put(
            records.departing(record, migration=order.migration, peer=order.target)
        )
        departure = self._departure(order)
        # a task of its own: an abort ends the way forward, and can never end the way back
        departure.forward = asyncio.create_task(self._go_forward(departure))
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

    async def abort(self, migration: str) -> MigrationReport:
        """Cancel, unless the verdict is Released already: the report says which of the two."""
        departure = self._departures.get(migration)
        if departure is None:
            raise NotFound(f"no migration {migration} leaves this node")
        if departure.verdict is Verdict.UNDECIDED and departure.task is not None:
            departure.cancelled = True
            if departure.forward is not None:
                departure.forward.cancel()
            await asyncio.wait([departure.task])
        return departure.report()

    async def forget(self, migration: str) -> None:
        """The operator has noted the end: destroy what is left of the copy, drop the record."""
        departure = self._departures.get(migration)
        if departure is None:
            return
        if not (departure.state.finished or departure.verdict is Verdict.RELEASED):
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if departure.verdict is Verdict.RELEASED:
            await self._end_released(departure)
        self._departures.pop(migration, None)

    async def _end_released(self, departure: Departure) -> None:
        if departure.task is not None:
            departure.task.cancel()
            await asyncio.wait([departure.task])
        async with departure.lock:  # a repetition finds nothing more, or somebody else's record
            record = self._with.journal.get(departure.order.container)
            if record is not None and record.migration == departure.order.migration:
                await self._destroy(record)
                self._with.journal.remove(record.id, floor=record.epoch + 1)

    async def vacate(self, container: str) -> None:
        """Another move brings the container back: what it has left here must be gone before."""
        record = self._with.journal.get(container)
        if record is not None and record.state is RecordState.RELEASED and record.migration:
            await self.forget(record.migration)

    async def recover(self) -> None:
        """After a restart: what is undecided is aborted, what is released is brought to its end."""
        for record in self._with.journal.all():
            if record.migration is None or record.peer is None:
                continue
            if record.state is RecordState.RELEASED:
                departure = self._departure(_order_of(record))
                departure.state, departure.verdict = SideState.RELEASED, Verdict.RELEASED
                departure.task = asyncio.create_task(self._finish(departure))
            elif record.state in {RecordState.RUNNING, RecordState.STOPPED, RecordState.FROZEN}:
                cause = TransshipError("the source's agent was restarted", reason="AgentRestarted")
                await self._roll_back(self._departure(_order_of(record)), cause)

    def _departure(self, order: OutgoingOrder) -> Departure:
        clock = self._with.clock
        departure = Departure(order=order, watch=Stopwatch(clock), began=clock.monotonic())
        self._departures[order.migration] = departure
        return departure

    def _record(self, container: str) -> Record:
        record = self._with.journal.get(container)
        if record is None:
            raise NotFound(f"container {container} is not on this node")
        return record

    async def _run(self, departure: Departure, forward: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait([forward])
        except asyncio.CancelledError:  # the agent is asked to end: not with a frozen container
            forward.cancel()
            await asyncio.wait([forward])
            if departure.verdict is Verdict.RELEASED:
                raise
        cause = _cancelled() if forward.cancelled() else forward.exception()
        if cause is None:
            await self._finish(departure)
        else:
            await self._roll_back(departure, cause)

    async def _go_forward(self, departure: Departure) -> None:
        order = departure.order
        log = logger.bind(migration=order.migration, container=order.container)
        log.bind(target=order.target.node, strategy=order.strategy).info("migration begins")
        departure.files = files = self._file_copy(order)
        await self._copy_files(departure, files)
        await self._hand_over(departure, files)

    def _file_copy(self, order: OutgoingOrder) -> FileCopy:
        bundles, record = self._with.bundles, self._record(order.container)
        return FileCopy(
            bundles.home(record.id),
            bundles.trees(record),
            peer=order.target,
            migration=order.migration,
            context=self._with.streams,
            mapped=lambda: bundles.mapped(record, self._with.copies.mapped(record.id)),
        )

    async def _copy_files(self, departure: Departure, files: FileCopy) -> None:
        with departure.watch.step(StepName.COPY_FILES):
            await files.copy()
        departure.bytes = files.bytes

    async def _hand_over(self, departure: Departure, files: FileCopy) -> None:
        order = departure.order
        memory = None
        if order.strategy is not Strategy.COLD:
            memory = await self._with.peers.memory(order.target, order.migration)
            await self._with.copies.ready(
                order.container, to=memory, node=order.target.node, strategy=order.strategy
            )
            await self._copy_memory(departure)
        await files.make_ready()
        await self._with.residents.quieten(order.container)
        await self._with.peers.hold(order.target, order.migration)
        with departure.watch.step(StepName.FREEZE):
            await self._freeze(departure)
        dumped = await self._dump(departure) if memory is not None else None
        if dumped is None:
            await self._restore(departure, files, dumped)
        else:
            # the copy is restored around its memory while that is still on its way
            await _both(self._send_memory(departure), self._restore(departure, files, dumped))
        with departure.watch.step(StepName.DECIDE):
            self._decide(departure)

    async def _freeze(self, departure: Departure) -> None:
        order, journal = departure.order, self._with.journal
        record = records.frozen(
            self._record(order.container), migration=order.migration, peer=order.target
        )
        # Cold: no instance any more, neither to thaw nor to report as lost; see _run_on
        boot = "" if order.strategy is Strategy.COLD else journal.boot
        journal.put(record.but(started_boot=boot))
        self._with.residents.disown(order.container)
        departure.state = SideState.FROZEN
        departure.frozen_at = self._with.clock.monotonic()
        if order.strategy is Strategy.COLD:
            await self._with.residents.stop(order.container)
        else:
            await self._with.copies.freeze(order.container)
        self._with.wires.divert(record, via=order.target.address)

    async def _dump(self, departure: Departure) -> Dumped:
        with departure.watch.step(StepName.DUMP):
            return await self._with.copies.dump(departure.order.container)

    async def _copy_memory(self, departure: Departure) -> None:
        order, copies = departure.order, self._with.copies
        if order.strategy is Strategy.PRE_COPY:
            downtime = order.settings.max_downtime_milliseconds or DOWNTIME_MILLISECONDS
            with departure.watch.step(StepName.COPY_MEMORY):
                departure.rounds = await copies.copy_memory(
                    order.container, downtime_seconds=downtime / 1e3 * MEMORY_SHARE
                )
        else:
            await copies.announce_memory(order.container)

    async def _send_memory(self, departure: Departure) -> None:
        with departure.watch.part("SendMemory"):
            sent = await self._with.copies.send_memory(departure.order.container)
        departure.bytes += sent

    async def _restore(self, departure: Departure, files: FileCopy, dumped: Dumped | None) -> None:
        # CRIU creates files at the dump (link remap): the difference of the files comes after it
        copied = files.bytes
        with departure.watch.step(StepName.SYNC_FILES):
            await files.send_difference()
        departure.bytes += files.bytes - copied
        with departure.watch.step(StepName.SEND_STATE):
            body = b"" if dumped is None else images.pack(dumped.images)
            request = RestoreRequest(asleep=() if dumped is None else dumped.asleep)
        with departure.watch.step(StepName.RESTORE):
            reply = await self._with.peers.restore(
                departure.order.target,
                departure.order.migration,
                request=request,
                images=body,
                timeout_seconds=RESTORE_TIMEOUT_SECONDS,
            )
        departure.bytes += len(body)
        departure.watch.add(reply.parts, prefix="Target")

    def _decide(self, departure: Departure) -> None:
        """The point of no return. No await here: a cancel comes before it or after it."""
        order = departure.order
        if departure.cancelled:
            raise _cancelled()
        record = records.released(self._record(order.container), epoch=order.epoch + 1)
        departure.release_tried = True
        self._with.journal.put(record)
        departure.verdict = Verdict.RELEASED
        departure.state = SideState.RELEASED

    async def _roll_back(self, departure: Departure, cause: BaseException) -> None:
        """The way back: first the durable promise never to give go, then the container runs on."""
        order = departure.order
        record = self._record(order.container)
        departure.failed_step = departure.watch.current
        await self._promise_to_keep(departure)
        departure.verdict = Verdict.ABORTED
        await self._run_on(departure, record)
        await self._put_away(departure)
        # last: a CRIU that was ended in the middle may have frozen the container again
        self._with.residents.keep(order.container)
        _note_failure(departure, cause)
        logger.bind(
            migration=order.migration, container=order.container, step=departure.failed_step
        ).warning("migration aborted, the container runs on here: {}", cause)
        owed = asyncio.create_task(self._end_abort(departure))
        self._owed.add(owed)
        owed.add_done_callback(self._owed.discard)

    async def _promise_to_keep(self, departure: Departure) -> None:
        """Write the abort; wait for the disk only if it may hold a Released that failed halfway.

        Frozen never becomes Released without _decide, and a restart turns it into Aborted: the
        container can run on before that is written.
        """
        while self._owes_abort(departure):
            try:
                self._write_aborted(departure)
            except JournalError as e:
                logger.bind(container=departure.order.container).error("abort not durable: {}", e)
                if not departure.release_tried:
                    return
                await asyncio.sleep(MEND_SECONDS)

    def _owes_abort(self, departure: Departure) -> bool:
        """The record does not say yet that the container stays."""
        record = self._with.journal.get(departure.order.container)
        if record is None or record.migration != departure.order.migration:
            return False
        return record.state in {RecordState.FROZEN, RecordState.RUNNING, RecordState.STOPPED}

    def _write_aborted(self, departure: Departure) -> None:
        order = departure.order
        record = records.aborted(self._record(order.container), migration=order.migration)
        self._with.journal.put(record)

    def _make_durable(self, departure: Departure) -> None:
        """Write an abort that the disk did not take when it was decided."""
        if self._owes_abort(departure):
            self._write_aborted(departure)
            self._with.residents.keep(departure.order.container)

    async def _run_on(self, departure: Departure, record: Record) -> None:
        """Each part is tried whatever became of the others; the supervisor mends what is left."""
        self._let_packets_in(departure, record)
        if record.state is not RecordState.FROZEN:
            return
        with _tolerating(departure, "letting the container run on"):
            if record.started_boot == self._with.journal.boot:
                await self._with.copies.thaw(record.id)
            elif not record.started_boot:
                await self._start_again(record)
        if departure.frozen_at is not None:
            stall = self._with.clock.monotonic() - departure.frozen_at
            departure.blackout_microseconds = round(stall * 1e6)

    def _let_packets_in(self, departure: Departure, record: Record) -> None:
        """Also before the freeze: once asked to hold, the target answers for the address."""
        with _tolerating(departure, "letting packets in"):
            with suppress(NotFound):  # a stopped container, or one of before a reboot
                self._with.wires.undivert(record)
            departure.packets_come = True

    async def _start_again(self, record: Record) -> None:
        """Cold: the stop may have been cut short, by an abort or by the agent's end."""
        await self._with.residents.stop(record.id)
        now = self._record(record.id)
        if now.state is RecordState.RUNNING and now.ordered_boot == self._with.journal.boot:
            await self._with.residents.start(now)

    async def _put_away(self, departure: Departure) -> None:
        with _tolerating(departure, "closing the stream of files"):
            if departure.files is not None:
                await departure.files.close()
        with _tolerating(departure, "ending the dump"):
            await self._with.copies.unready(departure.order.container)

    async def _end_abort(self, departure: Departure) -> None:
        """What could not be done at once; a later migration of the container ends the trying."""
        await self._tell_aborted(departure)
        while self._owes_abort(departure) or not departure.packets_come:
            await asyncio.sleep(MEND_SECONDS)
            record = self._with.journal.get(departure.order.container)
            if record is None or record.migration not in {None, departure.order.migration}:
                return
            if not departure.packets_come:
                self._let_packets_in(departure, record)
            with suppress(JournalError):
                self._make_durable(departure)

    async def _tell_aborted(self, departure: Departure) -> None:
        notice = VerdictNotice(
            migration=departure.order.migration,
            verdict=Verdict.ABORTED,
            epoch=departure.order.epoch,
        )
        with suppress(TransshipError):  # it asks by itself, and the operator relays
            await self._with.peers.decide(departure.order.target, notice)

    async def _finish(self, departure: Departure) -> None:
        """Bring the verdict to the target until it has been heard, then end the frozen copy."""
        order = departure.order
        notice = VerdictNotice(
            migration=order.migration, verdict=Verdict.RELEASED, epoch=order.epoch + 1
        )
        with departure.watch.step(StepName.RESUME):
            await self._give_go(departure, notice)
        await self._put_away(departure)
        try:
            with departure.watch.step(StepName.DESTROY):
                async with departure.lock:
                    await self._destroy(self._record(order.container))
        except Exception as e:  # it stays frozen and Released; forget tries again
            logger.bind(migration=order.migration).warning("frozen copy not destroyed: {}", e)
            return
        departure.total_milliseconds = round((self._with.clock.monotonic() - departure.began) * 1e3)
        departure.state = SideState.DONE
        logger.bind(
            migration=order.migration,
            container=order.container,
            blackout_ms=(departure.blackout_microseconds or 0) / 1e3,
        ).info("migration done")

    async def _give_go(self, departure: Departure, notice: VerdictNotice) -> None:
        tries = 0
        while True:
            sent = self._with.clock.monotonic()
            try:
                reply = await self._with.peers.decide(departure.order.target, notice)
            except TransshipError as e:
                logger.bind(migration=notice.migration).warning("go not delivered yet: {}", e)
            else:
                if reply.state is SideState.RUNNING:
                    self._note_blackout(departure, sent=sent, reply=reply)
                    return
            await asyncio.sleep(GO_RETRY_SECONDS[min(tries, len(GO_RETRY_SECONDS) - 1)])
            tries += 1

    def _note_blackout(self, departure: Departure, *, sent: float, reply: ResumeReply) -> None:
        """From the freeze to the thaw; the clocks differ, so the way of go is half a round trip."""
        if departure.frozen_at is None:
            return
        there_and_back = self._with.clock.monotonic() - sent
        resume = reply.resume_microseconds / 1e6
        way = max(0.0, there_and_back - resume) / 2
        departure.blackout_microseconds = round((sent + way + resume - departure.frozen_at) * 1e6)
        departure.watch.add(reply.parts, prefix="Target")

    async def _destroy(self, record: Record) -> None:
        """Only the release makes this legal; it can be repeated."""
        if record.state is not RecordState.RELEASED or record.peer is None:
            raise Refused(f"container {record.id} is not released", reason="WrongState")
        await self._with.copies.destroy(record.id)
        await asyncio.to_thread(self._with.wires.leave, record, via=record.peer.address)
        await self._with.bundles.remove(record.id)


@contextmanager
def _tolerating(departure: Departure, doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        log = logger.bind(migration=departure.order.migration, error=str(e))
        log.warning(f"{doing} failed")


async def _both(one: Coroutine[None, None, None], other: Coroutine[None, None, None]) -> None:
    """Run both at once; the first failure ends the other, and is raised."""
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _cancelled() -> TransshipError:
    return TransshipError("cancelled", reason="MigrationCancelled")


def _require_movable(record: Record, order: OutgoingOrder) -> None:
    runs = record.state is RecordState.RUNNING
    cold = record.state is RecordState.STOPPED and order.strategy is Strategy.COLD
    if record.epoch != order.epoch or not (runs or cold):
        raise Refused(
            f"container {order.container} is {record.state} as epoch {record.epoch} here, "
            f"not Running as epoch {order.epoch}",
            reason="WrongState",
        )


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
        strategy=Strategy.STOP_AND_COPY,
    )


def _note_failure(departure: Departure, cause: BaseException) -> None:
    known = cause if isinstance(cause, TransshipError) else None
    departure.failure = known or TransshipError(f"{type(cause).__name__}: {cause}")
    departure.log_tail = getattr(cause, "log_tail", "")
    cancelled = departure.failure.reason == "MigrationCancelled"
    departure.state = SideState.CANCELLED if cancelled else SideState.FAILED
