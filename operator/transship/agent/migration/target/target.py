"""The target's role in migrations: orders, reports, recovery after a restart.

The work is done by restore (up to the held copy), resume (on Released), cleanup (on Aborted, and
after failures) and verdict_poller (as long as there is no verdict). This side never decides about a
held copy: only the source's verdict ends that state, whether the source sends it, answers with it,
or the operator relays it. The HTTP routes call this for the operator and for peers, the agent at
its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from transship.agent.journal import recovery, transitions
from transship.agent.journal.record import OWNED, Record
from transship.agent.journal.recovery import RecoveryStep, VerdictAction
from transship.agent.migration.stopwatch import Stopwatch
from transship.agent.migration.target.cleanup import Cleanup
from transship.agent.migration.target.deps import TargetDeps
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agent.migration.target.restore import HeldRestore
from transship.agent.migration.target.resume import Resume
from transship.agent.migration.target.verdict_poller import VerdictPoller
from transship.agentapi.migrations import (
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
from transship.agentapi.states import RecordState, SideState
from transship.api.reasons import Reason
from transship.common.errors import NotFound, Refused, TransshipError
from transship.common.tasks import Tasks, for_each
from transship.streams.connection import Hello, Stream

__all__ = ["Target", "TargetDeps"]

PAGE_SERVER_KILLED = (
    "the page server with the rest of the container's memory was killed on the target: it is "
    "started anew there"
)


class Target:
    """Moves containers here. One object per agent; one IncomingMigration per migration."""

    def __init__(self, deps: TargetDeps) -> None:
        self._deps = deps
        self._incoming: dict[str, IncomingMigration] = {}
        self._recovering = Tasks()
        self._cleanup = Cleanup(deps)
        self._held_restore = HeldRestore(deps, self._cleanup)
        self._resume = Resume(deps, lose=self._lose)
        self._verdict_poller = VerdictPoller(deps, self.decide)

    async def begin(self, order: IncomingOrder) -> MigrationReport:
        """Prepare what is possible before the source begins; a repeated order only reports."""
        known = self._incoming.get(order.migration)
        if known is not None:
            return known.report()
        # raises Refused at once, not in the background
        self._held_restore.incoming_record(order)
        incoming = IncomingMigration(
            migration=order.migration,
            container=order.order.id,
            epoch=order.order.epoch,
            watch=Stopwatch(self._deps.clock),
            order=order,
        )
        self._incoming[order.migration] = incoming
        incoming.preparation = asyncio.create_task(self._held_restore.prepare(incoming, order))
        return incoming.report()

    def report(self, migration: str) -> MigrationReport | None:
        incoming = self._incoming.get(migration)
        return None if incoming is None else incoming.report()

    async def memory(self, migration: str) -> MemoryEndpoint:
        """Start the page server: the source is about to send memory."""
        async with self._prepared(migration).lock:
            # it may have ended while this waited for the lock
            incoming = self._prepared(migration)
            return await self._held_restore.open_memory(incoming)

    def memory_state(self, migration: str) -> MemoryState:
        """Whether memory is still awaited; it is not for a container that is gone."""
        record = self._deps.journal.of_migration(migration)
        if record is None:
            return MemoryState(awaited=False)
        arrived = record.arrived_by == migration
        return MemoryState(awaited=not arrived or self._deps.restores.awaits_memory(record.id))

    async def lose_memory(self, migration: str, loss: MemoryLoss) -> None:
        """End a copy whose missing memory is lost, at the source or with the page server here.

        The supervisor starts the container anew as after any other end. A copy that has all of its
        pages by now runs on. A repetition finds nothing more to end; the first cause stands.
        """
        record = self._deps.journal.of_migration(migration)
        if record is None or record.arrived_by != migration:
            raise NotFound(f"migration {migration} has brought no container here")
        if not record.memory_lost:
            if not await self._deps.restores.lacks_memory(record.id):
                return
            # before the copy ends: this agent may end before it could report the loss
            record = self._deps.journal.put(transitions.memory_lost(record, loss.why))
        await self._deps.restores.lose_memory(record.id)
        self._note_lost_memory(record, migration)

    async def _lose(self, container: str) -> None:
        record = self._deps.journal.get(container)
        if record is not None and record.arrived_by is not None:
            await self.lose_memory(record.arrived_by, MemoryLoss(why=PAGE_SERVER_KILLED))

    def _note_lost_memory(self, record: Record, migration: str) -> None:
        incoming = self._incoming.get(migration)
        if incoming is None:
            incoming = self._incoming[migration] = IncomingMigration(
                migration=migration,
                container=record.id,
                epoch=record.epoch,
                watch=Stopwatch(self._deps.clock),
            )
        incoming.state = SideState.RUNNING
        incoming.failure = TransshipError(
            record.memory_lost, reason=Reason.CONTAINER_LOST, hint=Reason.CONTAINER_LOST.hint
        )

    async def hold(self, migration: str) -> None:
        """Queue the packets that the source diverts here, until the copy runs."""
        incoming = self._prepared(migration)
        incoming.holding = True
        self._deps.network.hold(self._deps.record(incoming))

    async def receive_files(self, hello: Hello, client: str, stream: Stream) -> None:
        """Receive one run of the source's file copy (a handler of streams.connection)."""
        incoming = self._prepared(hello.migration)
        await self._held_restore.receive_files(incoming, client=client, stream=stream)

    async def restore(
        self, migration: str, request: RestoreRequest, *, body: AsyncIterable[bytes]
    ) -> RestoreReply:
        """Restore the dump, held. After a failure nothing is left that could run."""
        watch = Stopwatch(self._deps.clock)
        async with self._prepared(migration).lock:
            # it may have ended while this waited for the lock
            incoming = self._prepared(migration)
            if self._deps.record(incoming).state is RecordState.HELD:
                return RestoreReply()
            work = self._held_restore.restore(incoming, request, body=body, watch=watch)
            incoming.restoring = asyncio.create_task(work)
            try:
                await incoming.restoring
            except asyncio.CancelledError as e:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise Refused(f"migration {migration} was aborted here") from e
            finally:
                incoming.restoring = None
            self._verdict_poller.begin(incoming)
        return RestoreReply(parts=watch.parts)

    async def decide(self, notice: VerdictNotice) -> ResumeReply:
        """Obey the source's verdict; a repetition is answered with the present state."""
        began = self._deps.clock.monotonic()
        record = self._deps.journal.of_migration(notice.migration)
        arrived = record is not None and record.arrived_by == notice.migration
        if arrived and notice.migration not in self._incoming:
            return ResumeReply(state=SideState.RUNNING)
        incoming = self._known_incoming(notice.migration)
        match recovery.on_verdict(notice):
            case VerdictAction.RUN:
                async with incoming.lock:
                    return await self._resume.go(incoming, notice, began=began)
            case VerdictAction.DISCARD:
                await self._cleanup.abort(incoming)
                return ResumeReply(state=incoming.state)

    async def abort(self, migration: str) -> MigrationReport:
        """Discard what was prepared. Raises Refused for a held copy: it may be released."""
        incoming = self._known_incoming(migration)
        await incoming.end_preparation()
        await incoming.end_restoring()
        async with incoming.lock:
            # the restore may have ended with a held copy
            recovery.require_unheld(self._deps.journal.get(incoming.container), migration)
            await self._cleanup.cancel(incoming)
        return incoming.report()

    async def forget(self, migration: str) -> None:
        """The operator has noted the end of the migration."""
        incoming = self._incoming.get(migration)
        if incoming is not None and not incoming.state.finished:
            raise Refused(f"migration {migration} is under way", hint="abort it first")
        if incoming is not None:
            async with incoming.lock:
                await self._cleanup.discard(incoming)
            # the next dump writes to the folder that this removes
            if incoming.settling is not None:
                await asyncio.wait([incoming.settling])
        self._incoming.pop(migration, None)
        record = self._deps.journal.of_migration(migration)
        if record is not None and record.arrived_by == migration and record.memory_lost:
            # the operator has reported it
            self._deps.journal.put(record.but(memory_lost=""))

    async def recover(self) -> None:
        """After a restart: discard what was prepared, ask for the verdict of what is held.

        Discarding goes on in the background: gigabytes of files may have to be removed.
        """
        await for_each(
            self._deps.journal.all(), self._recover, doing="recovering", name=lambda r: r.id
        )

    async def _recover(self, record: Record) -> None:
        recovery_step = recovery.after_restart(record)
        if recovery_step is RecoveryStep.DISCARD:
            discarding = self._discard(self._incoming_of(record))
            _ = self._recovering.begin(discarding, name="discard incoming migration")
        elif recovery_step is RecoveryStep.ASK:
            self._verdict_poller.begin(self._incoming_of(record))
        elif record.state not in OWNED:
            return
        elif record.memory_lost and record.arrived_by is not None:
            _ = self._recovering.begin(self._resume.end_lost(record.id), name="end lost copy")
        elif self._deps.restores.awaits_memory(record.id):
            _ = self._recovering.begin(self._resume.settle(record.id), name="settle")

    async def _discard(self, incoming: IncomingMigration) -> None:
        cause = TransshipError("the target's agent was restarted", reason=Reason.AGENT_RESTARTED)
        async with incoming.lock:
            await self._cleanup.fail(incoming, cause)

    def _incoming_of(self, record: Record) -> IncomingMigration:
        incoming = IncomingMigration(
            migration=record.migration or "",
            container=record.id,
            epoch=record.epoch,
            watch=Stopwatch(self._deps.clock),
        )
        if record.state is RecordState.HELD:
            incoming.state, incoming.holding = SideState.HELD, True
        self._incoming[incoming.migration] = incoming
        return incoming

    def _known_incoming(self, migration: str) -> IncomingMigration:
        """The migration under way, or what is left of one that was forgotten too early."""
        incoming = self._incoming.get(migration)
        if incoming is not None:
            return incoming
        record = self._deps.journal.of_migration(migration)
        if record is None or record.state not in {RecordState.INCOMING, RecordState.HELD}:
            raise NotFound(f"migration {migration} does not come to this node")
        return self._incoming_of(record)

    def _prepared(self, migration: str) -> IncomingMigration:
        incoming = self._known_incoming(migration)
        if incoming.state not in {SideState.PREPARED, SideState.HELD}:
            raise Refused(f"migration {migration} is {incoming.state} here", reason="WrongState")
        return incoming
