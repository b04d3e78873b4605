"""The supervisor of one container: it observes, decides and takes one step, again and again.

One task per container takes all steps, so they never overlap. It wakes up on an event (a new order,
an exit, a failed probe, the end of a back-off) and at the latest after RESYNC_SECONDS.
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
"""The state of an instance whose record has no results of its probes."""

# exits cause an event; this finds the changes that cause none
RESYNC_SECONDS = 15.0


class Supervisor:
    """Supervises one container, from its order to its deletion."""

    def __init__(self, container_id: str, *, deps: SupervisorDeps) -> None:
        self.container_id = container_id
        self.note = Note()
        self.disowned = False
        self.deleting = False
        self._deps = deps
        self._log = logger.bind(container=container_id)
        self._wake = asyncio.Event()
        # held during every step except FETCH, which takes minutes and changes no instance
        self._stepping = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._fetched: ContainerOrder | None = None
        self._attached = False
        self._probes_paused = False
        self._back_off = BackOff()
        self._prober: Prober | None = None
        self._awaited_memory = False  # at the last observation

    def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"supervise {self.container_id}")

    async def close(self) -> None:
        """End the supervision; the container runs on."""
        self._stop_probing()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        self._wake.set()

    def reset_back_off(self) -> None:
        """Let the next step follow at once, as for a changed order."""
        self._back_off = BackOff()

    def disown(self) -> None:
        """Take no more steps: from now on a role of a migration acts on the container."""
        self.disowned = True
        self._stop_probing()

    async def pause_probes(self) -> None:
        """Stop the probes, and wait for a command of a probe that runs in the container."""
        self._probes_paused = True
        self._write_probes()
        prober, self._prober = self._prober, None
        if prober is not None:
            await prober.stop_and_wait()
        await self.wait_for_step()

    async def wait_for_step(self) -> int | None:
        """Wait for the step under way, and record an exit that was not recorded yet.

        Without the wait, a stop under way could kill a copy that was given away meanwhile. No other
        step begins before the caller's next await. Returns the pid of the instance's process 1, or
        None if no instance runs.
        """
        async with self._stepping:
            situation = self._observe()
            if next_step(situation) is Step.RECORD_EXIT:
                await self._record_exit(situation)
            return self.instance

    @property
    def instance(self) -> int | None:
        """The pid of process 1 of the present instance; None if no instance runs."""
        observed = self._deps.instances.observe(self.container_id)
        return observed.pid if observed.alive else None

    async def record_exit(self) -> bool:
        """Record the exit of a disowned instance that has ended by itself. Returns whether it has.

        Only the source role calls this, after it has written Frozen.
        """
        async with self._stepping:
            record = self._record()
            if record is None or self.instance is not None:
                return False
            situation = await self._with_exit_code(self._observe())
            begun = situation.record.but(started_boot=situation.boot)
            last = exit_of(replace(situation, record=begun), at=self._deps.clock.now())
            self._write_exit(replace(situation, record=begun), last)
            await self._deps.instances.clear(self.container_id)
            return True

    def adopt(self, lifecycle: Lifecycle | None = None) -> None:
        """Supervise the container (again). lifecycle: given if it came from another node."""
        self.disowned = self._probes_paused = False
        self.note = Note()
        self._attached = True
        if lifecycle is not None:
            at = self._deps.clock.monotonic()
            self._back_off = BackOff.carried_on(lifecycle, at=at)
        self.wake()

    def lifecycle(self, record: Record) -> Lifecycle:
        """What the target must know of the container, from its record at the freeze."""
        return lifecycle_of(record, self._back_off, at=self._deps.clock.monotonic())

    @property
    def health(self) -> Health | None:
        """The results of the probes, or the last recorded ones; None without any."""
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
        """Whether the container is deleted."""
        return self._task is not None and self._task.done()

    async def _run(self) -> None:
        while self._record() is not None:
            self._wake.clear()
            pause = await self._pass()
            with suppress(TimeoutError):  # not wait_for: Python 3.11's can swallow a cancel
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _pass(self) -> float:
        """Take one step. Returns the longest time to wait before the next pass, in seconds."""
        step = Step.NOTHING
        try:
            async with self._stepping:
                situation = self._observe()
                step = next_step(situation)
                if step is not Step.FETCH:
                    await self._take(step, situation)
            if step is Step.FETCH:  # outside of the lock: see _stepping
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
        self._restart_probes_that_lacked_memory(observed)
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

    def _restart_probes_that_lacked_memory(self, observed: ObservedContainer) -> None:
        """Probes fail while pages are missing: start them again and do not stop the container."""
        health = self.health
        if (
            (observed.awaits_memory or self._awaited_memory)
            and health is not None
            and health.failed
        ):
            self._stop_probing()
        self._awaited_memory = observed.awaits_memory

    async def _take(self, step: Step, situation: Situation) -> None:  # noqa: C901 - one arm per step
        instances, order = self._deps.instances, situation.record.order
        match step:
            case Step.NOTHING:
                await self._follow_instance(situation)
            case Step.AWAIT_ORDER:
                self.note = Note(Reason.AWAITING_ORDER, Reason.AWAITING_ORDER.meaning)
            case Step.WAIT:
                if not self.note.reason:
                    self.note = Note(
                        Reason.CRASH_LOOP_BACK_OFF, describe_exit(situation.record.last_exit)
                    )
            case Step.FETCH:
                await self._fetch(situation.record)
            case Step.START:
                await self._start(order)
            case Step.STOP:
                self._explain_stop()
                self._stop_probing()
                await instances.stop(order)
            case Step.FREEZE:
                await instances.freeze(self.container_id)
            case Step.THAW:
                await instances.thaw(self.container_id)
            case Step.RECORD_EXIT:
                await self._record_exit(situation)
            case Step.DELETE:
                await self._delete()

    async def _follow_instance(self, situation: Situation) -> None:
        """Change nothing but the network and the probes: both exist as long as it runs."""
        supervised = situation.observed.run is RunState.RUNNING and not self.disowned
        if not supervised:
            self._stop_probing()
            return
        if not self._attached:
            await self._deps.instances.attach(situation.record.order)
            self._attached = True
        if not situation.record.started_boot:  # an agent was killed right after the start
            self._write_start()
        self.note = Note()
        if self._prober is None and not self._probes_paused:
            self._prober = self._make_prober(self._owned())
        self._write_probes()

    def _make_prober(self, record: Record) -> Prober:
        return self._deps.prober(
            record.order,
            known=record.probes or ASSUMED_PROBE_STATE,
            ran_seconds=ran_seconds(record, self._deps.clock.now()),
            changed=self.wake,
        )

    def _write_probes(self) -> None:
        """Write the results of the probes for a migration or the next agent."""
        record = self._record()
        if self._prober is None or record is None or self.disowned:
            return
        probe_state = self._prober.health.state
        if probe_state != record.probes:
            with suppress(JournalError):  # on a full disk the next pass tries again
                journal = self._deps.journal
                journal.put(transitions.probed(record, probe_state), durability=Durability.CACHED)

    async def _fetch(self, record: Record) -> None:
        order = record.order
        self.note = Note(Reason.PULLING_IMAGE, f"pulling {order.container.image}")
        fetching = asyncio.create_task(self._deps.instances.fetch(transitions.pinned(record)))
        try:
            digest = await self._fetched_digest(fetching, order)
        finally:
            await _end(fetching)
        if digest is None:
            return
        self._fetched = order
        record = self._owned()
        if record.image_digest != digest:
            journal = self._deps.journal
            journal.put(record.but(image_digest=digest), durability=Durability.CACHED)

    async def _fetched_digest(
        self, fetching: asyncio.Task[str], order: ContainerOrder
    ) -> str | None:
        """The digest once fetched; None if the container is deleted or its order changes."""
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
        self._write_start()
        self._attached = True
        self.note = Note()

    def _write_start(self) -> None:
        journal, now = self._deps.journal, self._deps.clock.now()
        record = journal.put(transitions.started(self._owned(), boot=journal.boot, now=now))
        self._log.bind(epoch=record.epoch, restarts=record.restarts).debug("start recorded")

    def _explain_stop(self) -> None:
        self.note = Note(Reason.CONTAINER_STOPPED, "stopping the container")
        if (health := self.health) is not None and health.failed:
            self.note = Note(Reason.CONTAINER_UNHEALTHY, health.message)

    async def _record_exit(self, situation: Situation) -> None:
        """Write the exit before the instance is cleared: a killed agent must not count it twice."""
        self._stop_probing()
        situation = await self._with_exit_code(situation)
        self._owned()
        self._write_exit(situation, exit_of(situation, at=self._deps.clock.now()))
        self.note = Note()
        self._attached = False
        await self._deps.instances.clear(self.container_id)

    async def _with_exit_code(self, situation: Situation) -> Situation:
        if situation.observed.run is RunState.EXITED and situation.observed.exit_code is None:
            await self._deps.instances.await_exit(self.container_id)
            return self._observe()
        return situation

    def _write_exit(self, situation: Situation, last: LastExit | None) -> None:
        clock, journal, record = self._deps.clock, self._deps.journal, self._record()
        assert record is not None
        unwanted = situation.deleting or situation.record.order.state is DesiredState.STOPPED
        if unwanted or (last is not None and not starts_again(situation, last)):
            journal.put(transitions.ended(record, last))
        elif last is not None and situation.record.started_boot:
            journal.put(transitions.restarting(record, last), durability=Durability.CACHED)
            ran = ran_seconds(situation.record, last.time)
            self._back_off = self._back_off.after_end(at=clock.monotonic(), ran_seconds=ran)
        if last is not None:
            self._log.bind(code=last.exit_code, cause=last.reason).info("container ended")

    async def _delete(self) -> None:
        self.note = Note(Reason.DELETING, "removing the container's files")
        record = self._owned()
        await self._deps.instances.remove(self.container_id)
        self._deps.journal.remove(self.container_id, floor=record.epoch)
        self._log.info("container deleted")

    def _fail(self, step: Step, note: Note) -> None:
        self.note = note
        self._back_off = self._back_off.after_failure(at=self._deps.clock.monotonic())
        self._log.bind(step=step.name, reason=str(note.reason), message=note.message).warning(
            "step of a container failed, trying again later"
        )

    def _stop_probing(self) -> None:
        if self._prober is not None:
            self._prober.stop()
            self._prober = None

    def _record(self) -> Record | None:
        return self._deps.journal.get(self.container_id)

    def _owned(self) -> Record:
        """The present record, never the one that the pass began with: the roles write it too."""
        record = self._record()
        if record is None or self.disowned:
            raise TransshipError(f"container {self.container_id} was handed over meanwhile")
        return record


async def _end(task: asyncio.Task[object]) -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
