"""Looks after one container: observes, decides, takes one step, again and again.

One task per container takes all steps, so they never overlap. It only wakes up for a reason (a new
order, an exit, a failed probe, the end of a back-off) and now and then to see for itself.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from loguru import logger

from transship.agent import records
from transship.agent.durable import Durability
from transship.agent.machine import Note, Tools
from transship.agent.probes import Health, Prober
from transship.agent.records import Record
from transship.agent.supervision import (
    BackOff,
    Seen,
    Situation,
    Step,
    exit_of,
    next_step,
    ran_seconds,
    starts_again,
    told,
)
from transship.api.placement import DesiredState
from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.protocol.containers import ContainerOrder
from transship.protocol.states import RunState

LOOK_AGAIN_SECONDS = 15.0  # exits are reported; this is for what nobody reports


class Supervisor:
    """One container, from its order to its deletion."""

    def __init__(self, container_id: str, *, tools: Tools) -> None:
        self.container_id = container_id
        self.note = Note()
        self.disowned = False
        self.deleting = False
        self._tools = tools
        self._log = logger.bind(container=container_id)
        self._wake = asyncio.Event()
        self._stepping = asyncio.Lock()  # held for a step, but for the one that changes nothing
        self._task: asyncio.Task[None] | None = None
        self._fetched: ContainerOrder | None = None
        self._attached = False
        self._started_here = False
        self._quiet = False
        self._back_off = BackOff()
        self._prober: Prober | None = None
        self._last_health: Health | None = None
        self._awaited_memory = False  # when it was seen last

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

    def forgive(self) -> None:
        """A changed order deserves an immediate try."""
        self._back_off = BackOff()

    def disown(self) -> None:
        """Leave the container alone from now on: its end is not an exit."""
        self.disowned = True
        self._stop_probing()

    async def quieten(self) -> None:
        """Stop the probes, and wait for the one that may just be running in the container."""
        self._quiet = True
        prober, self._prober = self._prober, None
        if prober is not None:
            self._last_health = prober.health
            await prober.drain()
        await self.rest()

    async def rest(self) -> None:
        """Wait for the step under way: a stop would kill what has been given away meanwhile.

        No other one begins before the caller has gone on to its next await.
        """
        async with self._stepping:
            pass

    def adopt(self) -> None:
        """Look after it (again): it runs here by right."""
        self.disowned = self._quiet = False
        self._last_health = None
        self.note = Note()
        self._attached = True
        self._started_here = False
        self.wake()

    @property
    def health(self) -> Health | None:
        """What the probes say, or said last before they had to be quiet; None if nothing yet."""
        return self._last_health if self._prober is None else self._prober.health

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
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout=pause)

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
        waiting = self._back_off.waiting_seconds(at=self._tools.clock.monotonic())
        return min(waiting or LOOK_AGAIN_SECONDS, LOOK_AGAIN_SECONDS)

    def _observe(self) -> Situation:
        record = self._record()
        if record is None:
            raise TransshipError(f"container {self.container_id} has no record")
        seen = self._tools.machine.seen(self.container_id)
        self._forgive_waiting(seen)
        health = self.health
        return Situation(
            record=record,
            seen=seen,
            boot=self._tools.journal.boot,
            disowned=self.disowned,
            deleting=self.deleting,
            unhealthy=health is not None and health.failed,
            fetched=self._fetched == record.order,
            waiting_seconds=self._back_off.waiting_seconds(at=self._tools.clock.monotonic()),
        )

    def _forgive_waiting(self, seen: Seen) -> None:
        """While a page is missing probes fail of that: they begin anew, and nothing is stopped."""
        health = self.health
        if (seen.awaits_memory or self._awaited_memory) and health is not None and health.failed:
            self._stop_probing()
        self._awaited_memory = seen.awaits_memory

    async def _take(self, step: Step, now: Situation) -> None:  # noqa: C901 - one arm per step
        machine, order = self._tools.machine, now.record.order
        match step:
            case Step.NOTHING:
                await self._rest(now)
            case Step.AWAIT_ORDER:
                self.note = Note(Reason.AWAITING_ORDER, Reason.AWAITING_ORDER.meaning)
            case Step.WAIT:
                if not self.note.reason:
                    self.note = Note(Reason.CRASH_LOOP_BACK_OFF, told(now.record.last_exit))
            case Step.FETCH:
                await self._fetch(now.record)
            case Step.START:
                await self._start(order)
            case Step.STOP:
                self._note_stop()
                self._stop_probing()
                await machine.stop(order)
            case Step.FREEZE:
                await machine.freeze(self.container_id)
            case Step.THAW:
                await machine.thaw(self.container_id)
            case Step.NOTE_END:
                await self._note_end(now)
            case Step.DELETE:
                await self._delete()

    async def _rest(self, now: Situation) -> None:
        """Nothing to change; probes follow the container."""
        watched = now.seen.run is RunState.RUNNING and not self.disowned
        if not watched:
            self._stop_probing()
            return
        if not self._attached:
            await self._tools.machine.attach(now.record.order)
            self._attached = True
        if not now.record.started_boot:  # the agent was killed right after the start
            self._note_start()
        self.note = Note()
        if self._prober is None and not self._quiet:
            self._prober = self._tools.prober(
                now.record.order, known_well=not self._started_here, changed=self.wake
            )

    async def _fetch(self, record: Record) -> None:
        order = record.order
        self.note = Note(Reason.PULLING_IMAGE, f"pulling {order.container.image}")
        fetching = asyncio.create_task(self._tools.machine.fetch(records.pinned(record)))
        try:
            digest = await self._unless_unwanted(fetching, order)
        finally:
            await _end(fetching)
        if digest is None:
            return
        self._fetched = order
        record = self._owned()
        if record.image_digest != digest:
            journal = self._tools.journal
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
        await self._tools.machine.start(order)
        self._note_start()
        self._attached = self._started_here = True
        self.note = Note()

    def _note_start(self) -> None:
        journal, now = self._tools.journal, self._tools.clock.now()
        record = journal.put(records.started(self._owned(), boot=journal.boot, now=now))
        self._log.bind(epoch=record.epoch, restarts=record.restarts).debug("start noted")

    def _note_stop(self) -> None:
        self.note = Note(Reason.CONTAINER_STOPPED, "stopping the container")
        if (health := self.health) is not None and health.failed:
            self.note = Note(Reason.CONTAINER_UNHEALTHY, health.message)

    async def _note_end(self, now: Situation) -> None:
        """Write down the end first: an agent killed in between must not count it twice."""
        clock, journal = self._tools.clock, self._tools.journal
        self._stop_probing()
        if now.seen.run is RunState.EXITED and now.seen.exit_code is None:
            await self._tools.machine.await_exit(self.container_id)
            now = self._observe()
        last = exit_of(now, at=clock.now())
        unwanted = now.deleting or now.record.order.state is DesiredState.STOPPED
        if unwanted or (last is not None and not starts_again(now, last)):
            journal.put(records.ended(self._owned(), last))
        elif last is not None and now.record.started_boot:
            restarting = records.restarting(self._owned(), last)
            journal.put(restarting, durability=Durability.CACHED)
            ran = ran_seconds(now.record, last.time)
            self._back_off = self._back_off.after_end(at=clock.monotonic(), ran_seconds=ran)
        if last is not None:
            self._log.bind(code=last.exit_code, cause=last.reason).info("container ended")
        self.note = Note()
        self._attached = False
        await self._tools.machine.clear(self.container_id)

    async def _delete(self) -> None:
        self.note = Note(Reason.DELETING, "removing what is left")
        record = self._owned()
        await self._tools.machine.remove(self.container_id)
        self._tools.journal.remove(self.container_id, floor=record.epoch)
        self._log.info("container deleted")

    def _fail(self, step: Step, note: Note) -> None:
        self.note = note
        self._back_off = self._back_off.after_failure(at=self._tools.clock.monotonic())
        self._log.bind(step=step.name, reason=str(note.reason), message=note.message).warning(
            "step of a container failed: tried again later"
        )

    def _stop_probing(self) -> None:
        self._last_health = None
        if self._prober is not None:
            self._prober.stop()
            self._prober = None

    def _record(self) -> Record | None:
        return self._tools.journal.get(self.container_id)

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
