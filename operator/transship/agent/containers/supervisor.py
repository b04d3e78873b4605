"""Looks after one container: observes, decides, takes one step, again and again.

One task per container takes all steps, so they never overlap. It only wakes up for a reason (a new
order, an exit, a failed probe, the end of a back-off) and now and then to see for itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from loguru import logger

from transship.agent.containers.decide import (
    BackOff,
    ObservedContainer,
    Situation,
    Step,
    describe_exit,
    exit_of,
    lifecycle_of,
    next_step,
    ran_seconds,
    starts_again,
)
from transship.agent.containers.deps import Note, SupervisorDeps
from transship.agent.containers.probes import Health, Prober
from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.journal.store import JournalError
from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.agentapi.migrations import Lifecycle
from transship.agentapi.states import RunState
from transship.api.placement import DesiredState, LastExit
from transship.api.reasons import Reason
from transship.common.durable_files import Durability
from transship.common.errors import TransshipError

ASSUMED_PROBE_STATE = ProbeState(started=True, ready=True)
"""What is taken for known of an instance whose agent did not note what its probes said."""

RESYNC_SECONDS = 15.0  # exits are reported; this is for what nobody reports


class Supervisor:
    """One container, from its order to its deletion."""

    def __init__(self, container_id: str, *, deps: SupervisorDeps) -> None:
        self.container_id = container_id
        self.note = Note()
        self.disowned = False
        self.deleting = False
        self._deps = deps
        self._log = logger.bind(container=container_id)
        self._wake = asyncio.Event()
        self._stepping = asyncio.Lock()  # held for a step, but for the one that changes nothing
        self._task: asyncio.Task[None] | None = None
        self._fetched: ContainerOrder | None = None
        self._attached = False
        self._probes_paused = False
        self._back_off = BackOff()
        self._prober: Prober | None = None
        self._awaited_memory = False  # when it was observed last

    def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"supervise {self.container_id}")

    async def close(self) -> None:
        """Stop looking; the container runs on."""
        self._stop_probing()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        self._wake.set()

    def reset_back_off(self) -> None:
        """A changed order deserves an immediate try."""
        self._back_off = BackOff()

    def disown(self) -> None:
        """Leave the container alone from now on: its end is not an exit."""
        self.disowned = True
        self._stop_probing()

    async def pause_probes(self) -> None:
        """Stop the probes, and wait for the one that may just be running in the container."""
        self._probes_paused = True
        self._note_probes()
        prober, self._prober = self._prober, None
        if prober is not None:
            await prober.stop_and_wait()
        await self.wait_for_step()

    async def wait_for_step(self) -> int | None:
        """Wait for the step under way: a stop would kill what has been given away meanwhile.

        No other one begins before the caller has gone on to its next await. Returns the process 1
        of what runs; an instance that runs no more has its end written down.
        """
        async with self._stepping:
            now = self._observe()
            if next_step(now) is Step.RECORD_EXIT:
                await self._record_exit(now)
            return self.instance

    @property
    def instance(self) -> int | None:
        """Process 1 of the instance that is there now."""
        observed = self._deps.instances.observe(self.container_id)
        return observed.pid if observed.alive else None

    async def record_exit(self) -> bool:
        """Whether a disowned instance has ended by itself; then that is written down.

        Its record says already that it is to be frozen: the role calls this, and nobody else.
        """
        async with self._stepping:
            record = self._record()
            if record is None or self.instance is not None:
                return False
            now = await self._know_exit(self._observe())
            begun = now.record.but(started_boot=now.boot)
            last = exit_of(replace(now, record=begun), at=self._deps.clock.now())
            self._write_exit(replace(now, record=begun), last)
            await self._deps.instances.clear(self.container_id)
            return True

    def adopt(self, lifecycle: Lifecycle | None = None) -> None:
        """Look after it (again): it is here by right. lifecycle: of one from elsewhere."""
        self.disowned = self._probes_paused = False
        self.note = Note()
        self._attached = True
        if lifecycle is not None:
            at = self._deps.clock.monotonic()
            self._back_off = BackOff.carried_on(lifecycle, at=at)
        self.wake()

    def lifecycle(self, record: Record) -> Lifecycle:
        """What its next node has to know of it."""
        return lifecycle_of(record, self._back_off, at=self._deps.clock.monotonic())

    @property
    def health(self) -> Health | None:
        """What the probes say, or said last; None if nothing is known."""
        if self._prober is not None:
            return self._prober.health
        record = self._record()
        return None if record is None or record.probes is None else Health.from_state(record.probes)

    @property
    def ready(self) -> bool:
        health = self.health
        return health is not None and health.started and health.ready and not health.failed

    @property
    def finished(self) -> bool:
        """The container is deleted."""
        return self._task is not None and self._task.done()

    async def _run(self) -> None:
        while self._record() is not None:
            self._wake.clear()
            pause = await self._pass()
            with suppress(TimeoutError):  # not wait_for: Python 3.11's can swallow a cancel
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _pass(self) -> float:
        """Take one step; gives back how long to wait for the next reason to wake up."""
        step = Step.NOTHING
        try:
            async with self._stepping:
                situation = self._observe()
                step = next_step(situation)
                if step is not Step.FETCH:
                    await self._take(step, situation)
            if step is Step.FETCH:  # takes long, and nothing is done to the container
                await self._take(step, situation)
        except TransshipError as e:
            self._fail(step, Note.of(e))
        except Exception:
            self._log.exception("step of a container failed unexpectedly")
            self._fail(step, Note(Reason.INTERNAL_ERROR, f"{step.name.lower()} failed"))
        else:
            if step not in {Step.NOTHING, Step.WAIT, Step.AWAIT_ORDER}:
                return 0.0
        waiting = self._back_off.waiting_seconds(at=self._deps.clock.monotonic())
        return min(waiting or RESYNC_SECONDS, RESYNC_SECONDS)

    def _observe(self) -> Situation:
        record = self._record()
        if record is None:
            raise TransshipError(f"container {self.container_id} has no record")
        observed = self._deps.instances.observe(self.container_id)
        self._forgive_waiting(observed)
        health = self.health
        return Situation(
            record=record,
            observed=observed,
            boot=self._deps.journal.boot,
            disowned=self.disowned,
            deleting=self.deleting,
            unhealthy=health is not None and health.failed,
            fetched=self._fetched == record.order,
            waiting_seconds=self._back_off.waiting_seconds(at=self._deps.clock.monotonic()),
        )

    def _forgive_waiting(self, observed: ObservedContainer) -> None:
        """While a page is missing probes fail of that: they begin anew, and nothing is stopped."""
        health = self.health
        if (
            (observed.awaits_memory or self._awaited_memory)
            and health is not None
            and health.failed
        ):
            self._stop_probing()
        self._awaited_memory = observed.awaits_memory

    async def _take(self, step: Step, now: Situation) -> None:  # noqa: C901 - one arm per step
        instances, order = self._deps.instances, now.record.order
        match step:
            case Step.NOTHING:
                await self._rest(now)
            case Step.AWAIT_ORDER:
                self.note = Note(Reason.AWAITING_ORDER, Reason.AWAITING_ORDER.meaning)
            case Step.WAIT:
                if not self.note.reason:
                    self.note = Note(
                        Reason.CRASH_LOOP_BACK_OFF, describe_exit(now.record.last_exit)
                    )
            case Step.FETCH:
                await self._fetch(now.record)
            case Step.START:
                await self._start(order)
            case Step.STOP:
                self._note_stop()
                self._stop_probing()
                await instances.stop(order)
            case Step.FREEZE:
                await instances.freeze(self.container_id)
            case Step.THAW:
                await instances.thaw(self.container_id)
            case Step.RECORD_EXIT:
                await self._record_exit(now)
            case Step.DELETE:
                await self._delete()

    async def _rest(self, now: Situation) -> None:
        """Nothing to change; probes follow the container."""
        watched = now.observed.run is RunState.RUNNING and not self.disowned
        if not watched:
            self._stop_probing()
            return
        if not self._attached:
            await self._deps.instances.attach(now.record.order)
            self._attached = True
        if not now.record.started_boot:  # the agent was killed right after the start
            self._note_start()
        self.note = Note()
        if self._prober is None and not self._probes_paused:
            self._prober = self._probe(self._owned())
        self._note_probes()

    def _probe(self, record: Record) -> Prober:
        return self._deps.prober(
            record.order,
            known=record.probes or ASSUMED_PROBE_STATE,
            ran_seconds=ran_seconds(record, self._deps.clock.now()),
            changed=self.wake,
        )

    def _note_probes(self) -> None:
        """It goes along in a move, and a restarted agent goes on from it."""
        record = self._record()
        if self._prober is None or record is None or self.disowned:
            return
        probe_state = self._prober.health.state
        if probe_state != record.probes:
            with suppress(JournalError):  # the disk is full: tried again at the next look
                journal = self._deps.journal
                journal.put(transitions.probed(record, probe_state), durability=Durability.CACHED)

    async def _fetch(self, record: Record) -> None:
        order = record.order
        self.note = Note(Reason.PULLING_IMAGE, f"pulling {order.container.image}")
        fetching = asyncio.create_task(self._deps.instances.fetch(transitions.pinned(record)))
        try:
            digest = await self._unless_unwanted(fetching, order)
        finally:
            await _end(fetching)
        if digest is None:
            return
        self._fetched = order
        record = self._owned()
        if record.image_digest != digest:
            journal = self._deps.journal
            journal.put(record.but(image_digest=digest), durability=Durability.CACHED)

    async def _unless_unwanted(
        self, fetching: asyncio.Task[str], order: ContainerOrder
    ) -> str | None:
        """Wait for it, unless the container is deleted or its order changes meanwhile."""
        while True:
            waking = asyncio.create_task(self._wake.wait())
            await asyncio.wait({fetching, waking}, return_when=asyncio.FIRST_COMPLETED)
            await _end(waking)
            if fetching.done():
                return fetching.result()
            self._wake.clear()
            record = self._record()
            if record is None or self.deleting or record.order != order:
                return None

    async def _start(self, order: ContainerOrder) -> None:
        self.note = Note(Reason.STARTING, Reason.STARTING.meaning)
        await self._deps.instances.start(order)
        self._note_start()
        self._attached = True
        self.note = Note()

    def _note_start(self) -> None:
        journal, now = self._deps.journal, self._deps.clock.now()
        record = journal.put(transitions.started(self._owned(), boot=journal.boot, now=now))
        self._log.bind(epoch=record.epoch, restarts=record.restarts).debug("start noted")

    def _note_stop(self) -> None:
        self.note = Note(Reason.CONTAINER_STOPPED, "stopping the container")
        if (health := self.health) is not None and health.failed:
            self.note = Note(Reason.CONTAINER_UNHEALTHY, health.message)

    async def _record_exit(self, now: Situation) -> None:
        """Write down the end first: an agent killed in between must not count it twice."""
        self._stop_probing()
        now = await self._know_exit(now)
        self._owned()
        self._write_exit(now, exit_of(now, at=self._deps.clock.now()))
        self.note = Note()
        self._attached = False
        await self._deps.instances.clear(self.container_id)

    async def _know_exit(self, now: Situation) -> Situation:
        if now.observed.run is RunState.EXITED and now.observed.exit_code is None:
            await self._deps.instances.await_exit(self.container_id)
            return self._observe()
        return now

    def _write_exit(self, now: Situation, last: LastExit | None) -> None:
        clock, journal, record = self._deps.clock, self._deps.journal, self._record()
        assert record is not None
        unwanted = now.deleting or now.record.order.state is DesiredState.STOPPED
        if unwanted or (last is not None and not starts_again(now, last)):
            journal.put(transitions.ended(record, last))
        elif last is not None and now.record.started_boot:
            journal.put(transitions.restarting(record, last), durability=Durability.CACHED)
            ran = ran_seconds(now.record, last.time)
            self._back_off = self._back_off.after_end(at=clock.monotonic(), ran_seconds=ran)
        if last is not None:
            self._log.bind(code=last.exit_code, cause=last.reason).info("container ended")

    async def _delete(self) -> None:
        self.note = Note(Reason.DELETING, "removing what is left")
        record = self._owned()
        await self._deps.instances.remove(self.container_id)
        self._deps.journal.remove(self.container_id, floor=record.epoch)
        self._log.info("container deleted")

    def _fail(self, step: Step, note: Note) -> None:
        self.note = note
        self._back_off = self._back_off.after_failure(at=self._deps.clock.monotonic())
        self._log.bind(step=step.name, reason=str(note.reason), message=note.message).warning(
            "step of a container failed: tried again later"
        )

    def _stop_probing(self) -> None:
        if self._prober is not None:
            self._prober.stop()
            self._prober = None

    def _record(self) -> Record | None:
        return self._deps.journal.get(self.container_id)

    def _owned(self) -> Record:
        """The record as it is now; never the one that a pass began with: roles write it too."""
        record = self._record()
        if record is None or self.disowned:
            raise TransshipError(f"container {self.container_id} was given away meanwhile")
        return record


async def _end(task: asyncio.Task[object]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
