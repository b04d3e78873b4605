"""The source's way back: the container runs on here, whatever became of the move.

First the durable promise never to give go, then the container; what cannot be done at once is owed
and tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from loguru import logger

from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import Record
from transship.agent.journal.store import JournalError
from transship.agent.migration.source.deps import SourceDeps
from transship.agent.migration.source.outgoing import OutgoingMigration
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.common.errors import NotFound, TransshipError
from transship.common.tasks import Tasks

MEND_SECONDS = 1.0
"""Between tries to do what an abort still owes: a disk is full, the kernel refuses a route."""


class Rollback:
    """Takes one departure after the other back."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._owed = Tasks()  # outlive their departures

    async def roll_back(self, outgoing: OutgoingMigration, cause: BaseException) -> None:
        """The way back: first the durable promise never to give go, then the container runs on."""
        order = outgoing.order
        record = self._deps.record(order.container)
        outgoing.failed_step = outgoing.watch.current
        await self._promise_to_keep(outgoing)
        outgoing.verdict = Verdict.ABORTED
        await self._run_on(outgoing, record)
        # now: it holds packets of the container's
        _ = self._owed.begin(self._tell_aborted(outgoing), name="tell aborted")
        outgoing.leave_queue()
        await self._end_dump(outgoing)
        # not before: a CRIU that was ended in the middle may have frozen the container again
        self._deps.residents.readopt(order.container)
        await self._close_files(outgoing)
        _note_failure(outgoing, cause)
        logger.bind(
            migration=order.migration, container=order.container, step=outgoing.failed_step
        ).warning("migration aborted, the container runs on here: {}", cause)
        _ = self._owed.begin(self._end_abort(outgoing), name="end abort")

    async def close(self) -> None:
        """Wait a little for the targets to be told; whoever starts next does the rest."""
        await self._owed.wait(timeout_seconds=MEND_SECONDS)

    async def put_away(self, outgoing: OutgoingMigration) -> None:
        await self._end_dump(outgoing)
        await self._close_files(outgoing)

    async def _end_dump(self, outgoing: OutgoingMigration) -> None:
        with _tolerating(outgoing, "ending the dump"):
            await self._deps.checkpoints.unready(outgoing.order.container)

    async def _close_files(self, outgoing: OutgoingMigration) -> None:
        with _tolerating(outgoing, "closing the stream of files"):
            if outgoing.files is not None:
                await outgoing.files.close()

    async def _promise_to_keep(self, outgoing: OutgoingMigration) -> None:
        """Write the abort; wait for the disk only if it may hold a Released that failed halfway.

        Frozen never becomes Released without _decide, and a restart turns it into Aborted: the
        container can run on before that is written.
        """
        while self._owes_abort(outgoing):
            try:
                self._write_aborted(outgoing)
            except JournalError as e:
                logger.bind(container=outgoing.order.container).error("abort not durable: {}", e)
                if recovery.may_run_on_unwritten(release_tried=outgoing.release_tried):
                    return
                await asyncio.sleep(MEND_SECONDS)

    def _owes_abort(self, outgoing: OutgoingMigration) -> bool:
        record = self._deps.journal.get(outgoing.order.container)
        return recovery.owes_abort(record, outgoing.order.migration)

    def _write_aborted(self, outgoing: OutgoingMigration) -> None:
        order = outgoing.order
        record = transitions.aborted(self._deps.record(order.container), migration=order.migration)
        self._deps.journal.put(record)

    def _make_durable(self, outgoing: OutgoingMigration) -> None:
        """Write an abort that the disk did not take when it was decided."""
        if self._owes_abort(outgoing):
            self._write_aborted(outgoing)
            self._deps.residents.readopt(outgoing.order.container)

    async def _run_on(self, outgoing: OutgoingMigration, record: Record) -> None:
        """Each part is tried whatever became of the others; the supervisor mends what is left."""
        self._release_throttle(outgoing)
        self._let_packets_in(outgoing, record)
        if record.state is not RecordState.FROZEN:
            return
        with _tolerating(outgoing, "letting the container run on"):
            if record.started_boot == self._deps.journal.boot:
                await self._deps.checkpoints.thaw(record.id)
            elif not record.started_boot and not outgoing.at_rest:
                await self._start_again(record)
        if outgoing.frozen_at is not None:
            stall = self._deps.clock.monotonic() - outgoing.frozen_at
            outgoing.blackout_microseconds = round(stall * 1e6)

    def _release_throttle(self, outgoing: OutgoingMigration) -> None:
        """It was slowed down for this move alone."""
        with _tolerating(outgoing, "giving its CPU time back"):
            self._deps.cpu_throttle.release(outgoing.order.container)
            outgoing.is_slow = False

    def _let_packets_in(self, outgoing: OutgoingMigration, record: Record) -> None:
        """Also before the freeze: once asked to hold, the target answers for the address."""
        with _tolerating(outgoing, "letting packets in"):
            with suppress(NotFound):  # a stopped container, or one of before a reboot
                self._deps.network.undivert(record)
            outgoing.packets_come = True

    async def _start_again(self, record: Record) -> None:
        """Cold: the stop may have been cut short, by an abort or by the agent's end."""
        await self._deps.residents.stop(record.id)
        now = self._deps.record(record.id)
        if now.state is RecordState.RUNNING and now.ordered_boot == self._deps.journal.boot:
            await self._deps.residents.start(now)

    async def _end_abort(self, outgoing: OutgoingMigration) -> None:
        """What could not be done at once; a later migration of the container ends the trying."""
        while self._owes_abort(outgoing) or outgoing.is_slow or not outgoing.packets_come:
            await asyncio.sleep(MEND_SECONDS)
            record = self._deps.journal.get(outgoing.order.container)
            if record is None or record.migration not in {None, outgoing.order.migration}:
                return
            if outgoing.is_slow:
                self._release_throttle(outgoing)
            if not outgoing.packets_come:
                self._let_packets_in(outgoing, record)
            with suppress(JournalError):
                self._make_durable(outgoing)

    async def _tell_aborted(self, outgoing: OutgoingMigration) -> None:
        notice = VerdictNotice(
            migration=outgoing.order.migration,
            verdict=Verdict.ABORTED,
            epoch=outgoing.order.epoch,
        )
        with suppress(TransshipError):  # it asks by itself, and the operator relays
            await self._deps.peers.decide(outgoing.order.target, notice)


@contextmanager
def _tolerating(outgoing: OutgoingMigration, doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        log = logger.bind(migration=outgoing.order.migration, error=str(e))
        log.warning(f"{doing} failed")


def _note_failure(outgoing: OutgoingMigration, cause: BaseException) -> None:
    known = cause if isinstance(cause, TransshipError) else None
    outgoing.failure = known or TransshipError(f"{type(cause).__name__}: {cause}")
    outgoing.log_tail = getattr(cause, "log_tail", "")
    cancelled = outgoing.failure.reason == "MigrationCancelled"
    outgoing.state = SideState.CANCELLED if cancelled else SideState.FAILED
