"""The source's way back: the container runs on here, whatever became of the move.

First the durable promise never to give go, then the container; what cannot be done at once is owed
and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from loguru import logger

from transship.agent import duties, records
from transship.agent.departure import Departure
from transship.agent.journal import JournalError
from transship.agent.records import Record
from transship.agent.source_parts import SourceParts
from transship.common.errors import NotFound, TransshipError
from transship.common.tasks import Tasks
from transship.protocol.migrations import VerdictNotice
from transship.protocol.states import RecordState, SideState, Verdict

MEND_SECONDS = 1.0
"""Between tries to do what an abort still owes: a disk is full, the kernel refuses a route."""


class WayBack:
    """Takes one departure after the other back."""

    def __init__(self, parts: SourceParts) -> None:
        self._with = parts
        self._owed = Tasks()  # outlive their departures

    async def roll_back(self, departure: Departure, cause: BaseException) -> None:
        """The way back: first the durable promise never to give go, then the container runs on."""
        order = departure.order
        record = self._with.record(order.container)
        departure.failed_step = departure.watch.current
        await self._promise_to_keep(departure)
        departure.verdict = Verdict.ABORTED
        await self._run_on(departure, record)
        # now: it holds packets of the container's
        _ = self._owed.begin(self._tell_aborted(departure), name="tell aborted")
        departure.leave_queue()
        await self._end_dump(departure)
        # not before: a CRIU that was ended in the middle may have frozen the container again
        self._with.residents.keep(order.container)
        await self._close_files(departure)
        _note_failure(departure, cause)
        logger.bind(
            migration=order.migration, container=order.container, step=departure.failed_step
        ).warning("migration aborted, the container runs on here: {}", cause)
        _ = self._owed.begin(self._end_abort(departure), name="end abort")

    async def close(self) -> None:
        """Wait a little for the targets to be told; whoever starts next does the rest."""
        await self._owed.wait(timeout_seconds=MEND_SECONDS)

    async def put_away(self, departure: Departure) -> None:
        await self._end_dump(departure)
        await self._close_files(departure)

    async def _end_dump(self, departure: Departure) -> None:
        with _tolerating(departure, "ending the dump"):
            await self._with.copies.unready(departure.order.container)

    async def _close_files(self, departure: Departure) -> None:
        with _tolerating(departure, "closing the stream of files"):
            if departure.files is not None:
                await departure.files.close()

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
                if duties.may_run_on_unwritten(release_tried=departure.release_tried):
                    return
                await asyncio.sleep(MEND_SECONDS)

    def _owes_abort(self, departure: Departure) -> bool:
        record = self._with.journal.get(departure.order.container)
        return duties.owes_abort(record, departure.order.migration)

    def _write_aborted(self, departure: Departure) -> None:
        order = departure.order
        record = records.aborted(self._with.record(order.container), migration=order.migration)
        self._with.journal.put(record)

    def _make_durable(self, departure: Departure) -> None:
        """Write an abort that the disk did not take when it was decided."""
        if self._owes_abort(departure):
            self._write_aborted(departure)
            self._with.residents.keep(departure.order.container)

    async def _run_on(self, departure: Departure, record: Record) -> None:
        """Each part is tried whatever became of the others; the supervisor mends what is left."""
        self._release_brake(departure)
        self._let_packets_in(departure, record)
        if record.state is not RecordState.FROZEN:
            return
        with _tolerating(departure, "letting the container run on"):
            if record.started_boot == self._with.journal.boot:
                await self._with.copies.thaw(record.id)
            elif not record.started_boot and not departure.at_rest:
                await self._start_again(record)
        if departure.frozen_at is not None:
            stall = self._with.clock.monotonic() - departure.frozen_at
            departure.blackout_microseconds = round(stall * 1e6)

    def _release_brake(self, departure: Departure) -> None:
        """It was slowed down for this move alone."""
        with _tolerating(departure, "giving its CPU time back"):
            self._with.brakes.release(departure.order.container)
            departure.is_slow = False

    def _let_packets_in(self, departure: Departure, record: Record) -> None:
        """Also before the freeze: once asked to hold, the target answers for the address."""
        with _tolerating(departure, "letting packets in"):
            with suppress(NotFound):  # a stopped container, or one of before a reboot
                self._with.wires.undivert(record)
            departure.packets_come = True

    async def _start_again(self, record: Record) -> None:
        """Cold: the stop may have been cut short, by an abort or by the agent's end."""
        await self._with.residents.stop(record.id)
        now = self._with.record(record.id)
        if now.state is RecordState.RUNNING and now.ordered_boot == self._with.journal.boot:
            await self._with.residents.start(now)

    async def _end_abort(self, departure: Departure) -> None:
        """What could not be done at once; a later migration of the container ends the trying."""
        while self._owes_abort(departure) or departure.is_slow or not departure.packets_come:
            await asyncio.sleep(MEND_SECONDS)
            record = self._with.journal.get(departure.order.container)
            if record is None or record.migration not in {None, departure.order.migration}:
                return
            if departure.is_slow:
                self._release_brake(departure)
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


@contextmanager
def _tolerating(departure: Departure, doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        log = logger.bind(migration=departure.order.migration, error=str(e))
        log.warning(f"{doing} failed")


def _note_failure(departure: Departure, cause: BaseException) -> None:
    known = cause if isinstance(cause, TransshipError) else None
    departure.failure = known or TransshipError(f"{type(cause).__name__}: {cause}")
    departure.log_tail = getattr(cause, "log_tail", "")
    cancelled = departure.failure.reason == "MigrationCancelled"
    departure.state = SideState.CANCELLED if cancelled else SideState.FAILED
