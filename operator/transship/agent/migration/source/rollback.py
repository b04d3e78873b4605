"""The rollback: the container runs on here, whatever became of the move.

First the abort is made durable, then the container runs on. What cannot be done at once is tried
again in the background.
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
from transship.agentapi.states import RecordState, Verdict
from transship.common.errors import NotFound, TransshipError
from transship.common.tasks import Tasks

RETRY_SECONDS = 1.0
"""Between tries to undo what is left of an abort: a disk is full, the kernel refuses a route."""


class Rollback:
    """Takes outgoing migrations back."""

    def __init__(self, deps: SourceDeps) -> None:
        self._deps = deps
        self._retries = Tasks()
        """They outlive their migrations."""

    async def roll_back(self, outgoing: OutgoingMigration, cause: BaseException) -> None:
        """Write the abort, then let the container run on, undo the rest, report the cause."""
        order = outgoing.order
        record = self._deps.record(order.container)
        outgoing.progress.failed_step = outgoing.watch.current
        await self._make_abort_durable(outgoing)
        outgoing.progress.verdict = Verdict.ABORTED
        await self._run_on(outgoing, record)
        # at once: the target queues packets for the container
        _ = self._retries.begin(self._tell_target(outgoing), name="tell target of abort")
        outgoing.leave_queue()
        await self._end_dump(outgoing)
        # not before: CRIU freezes the container again when it is ended in the middle of a dump
        self._deps.residents.readopt(order.container)
        await self._close_files(outgoing)
        outgoing.progress.note_failure(cause)
        logger.bind(
            migration=order.migration, container=order.container, step=outgoing.progress.failed_step
        ).warning("migration aborted, the container runs on here: {}", cause)
        _ = self._retries.begin(self._finish_abort(outgoing), name="finish abort")

    async def close(self) -> None:
        """Wait a little for the targets to be told; the next start of the agent does the rest."""
        await self._retries.wait(timeout_seconds=RETRY_SECONDS)

    async def close_streams(self, outgoing: OutgoingMigration) -> None:
        """End the dump and all streams to the target."""
        await self._end_dump(outgoing)
        await self._close_files(outgoing)

    async def _end_dump(self, outgoing: OutgoingMigration) -> None:
        with _logging_failure(outgoing, "ending the dump"):
            await self._deps.checkpoints.unready(outgoing.order.container)

    async def _close_files(self, outgoing: OutgoingMigration) -> None:
        with _logging_failure(outgoing, "closing the streams of files"):
            if outgoing.preparation.files is not None:
                await outgoing.preparation.files.close()

    async def _make_abort_durable(self, outgoing: OutgoingMigration) -> None:
        """Write the abort; wait for the disk only if it may have a Released that failed halfway.

        Frozen becomes Released in Handover._release alone, and a restart turns Frozen into Aborted.
        So without that try the container may run on before the abort is written.
        """
        while self._owes_abort(outgoing):
            try:
                self._write_abort(outgoing)
            except JournalError as e:
                logger.bind(container=outgoing.order.container).error("abort not durable: {}", e)
                if recovery.may_run_on_unwritten(release_tried=outgoing.freeze.release_tried):
                    return
                await asyncio.sleep(RETRY_SECONDS)

    def _owes_abort(self, outgoing: OutgoingMigration) -> bool:
        record = self._deps.journal.get(outgoing.order.container)
        return recovery.owes_abort(record, outgoing.order.migration)

    def _write_abort(self, outgoing: OutgoingMigration) -> None:
        order = outgoing.order
        record = transitions.aborted(self._deps.record(order.container), migration=order.migration)
        self._deps.journal.put(record)

    async def _run_on(self, outgoing: OutgoingMigration, record: Record) -> None:
        """Try each part, whatever became of the others; the supervisor repairs what is left."""
        self._release_throttle(outgoing)
        self._let_packets_in(outgoing, record)
        if record.state is not RecordState.FROZEN:
            return
        with _logging_failure(outgoing, "letting the container run on"):
            if record.started_boot == self._deps.journal.boot:
                await self._deps.checkpoints.thaw(record.id)
            elif not record.started_boot and not outgoing.was_frozen_stopped:
                await self._start_again(record)
        if outgoing.freeze.frozen_at is not None:
            blackout = self._deps.clock.monotonic() - outgoing.freeze.frozen_at
            outgoing.progress.blackout_microseconds = round(blackout * 1e6)

    def _release_throttle(self, outgoing: OutgoingMigration) -> None:
        with _logging_failure(outgoing, "giving the container's CPU time back"):
            self._deps.cpu_throttle.release(outgoing.order.container)
            outgoing.rollback.is_throttled = False

    def _let_packets_in(self, outgoing: OutgoingMigration, record: Record) -> None:
        """Also before the freeze: a target that was asked to hold answers for the address."""
        with _logging_failure(outgoing, "letting packets in"):
            # a stopped container, or one from before a reboot, has no network
            with suppress(NotFound):
                self._deps.network.undivert(record)
            outgoing.rollback.is_reachable = True

    async def _start_again(self, record: Record) -> None:
        """Cold: an abort, or the agent's end, may have cut the stop short."""
        await self._deps.residents.stop(record.id)
        now = self._deps.record(record.id)
        if now.state is RecordState.RUNNING and now.ordered_boot == self._deps.journal.boot:
            await self._deps.residents.start(now)

    async def _finish_abort(self, outgoing: OutgoingMigration) -> None:
        """Retry what could not be done at once, until a later migration of the container begins."""
        todo = outgoing.rollback
        while self._owes_abort(outgoing) or todo.is_throttled or not todo.is_reachable:
            await asyncio.sleep(RETRY_SECONDS)
            record = self._deps.journal.get(outgoing.order.container)
            if record is None or record.migration not in {None, outgoing.order.migration}:
                return
            if todo.is_throttled:
                self._release_throttle(outgoing)
            if not todo.is_reachable:
                self._let_packets_in(outgoing, record)
            with suppress(JournalError):
                self._write_owed_abort(outgoing)

    def _write_owed_abort(self, outgoing: OutgoingMigration) -> None:
        """Write an abort that the disk did not take when it was decided."""
        if self._owes_abort(outgoing):
            self._write_abort(outgoing)
            self._deps.residents.readopt(outgoing.order.container)

    async def _tell_target(self, outgoing: OutgoingMigration) -> None:
        notice = VerdictNotice(
            migration=outgoing.order.migration,
            verdict=Verdict.ABORTED,
            epoch=outgoing.order.epoch,
        )
        # the target polls for the verdict, and the operator relays it
        with suppress(TransshipError):
            await self._deps.peers.decide(outgoing.order.target, notice)


@contextmanager
def _logging_failure(outgoing: OutgoingMigration, doing: str) -> Iterator[None]:
    """Log whatever is raised, and go on: a rollback must not stop halfway."""
    try:
        yield
    except Exception as e:
        log = logger.bind(migration=outgoing.order.migration, error=str(e))
        log.warning(f"{doing} failed")
