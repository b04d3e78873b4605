"""The containers that this node holds: orders, deletions, reports; one supervisor for each.

The server calls it for the operator; the two roles of a migration call adopt and disown, so that
the end of a copy that was given away is no exit, and an arrived one is looked after.
"""

from __future__ import annotations

import asyncio

from loguru import logger

from transship.agent.containers.decide import ObservedContainer
from transship.agent.containers.deps import Note, SupervisorDeps
from transship.agent.containers.supervisor import Supervisor
from transship.agent.journal import transitions
from transship.agent.journal.record import OWNED, Record
from transship.agent.node.migratability import MigratabilityScan
from transship.agentapi.containers import (
    ContainerOrder,
    ContainerReport,
    ContainerReports,
    ReportedObstacle,
)
from transship.agentapi.migrations import Lifecycle
from transship.agentapi.states import RecordState
from transship.api.obstacle import Obstacle
from transship.api.placement import DesiredState
from transship.api.reasons import Reason
from transship.common.errors import NotFound


class NodeContainers:
    """All of them. Every change goes through the journal first."""

    def __init__(self, deps: SupervisorDeps) -> None:
        self._deps = deps
        self._journal = deps.journal
        self._instances = deps.instances
        self._supervisors: dict[str, Supervisor] = {}
        self.migratability_scan = MigratabilityScan(deps.journal, deps.instances)

    def begin(self) -> None:
        """Look after everything that the journal says is ours; after the roles have recovered."""
        for record in self._journal.all():
            if record.state in OWNED:
                self._supervisor(record.id).begin()

    async def close(self) -> None:
        """Stop looking; containers run on."""
        await asyncio.gather(*(each.close() for each in self._supervisors.values()))

    def apply(self, order: ContainerOrder) -> ContainerReport:
        """Take an order; what it needs is done afterwards, the report tells how far it is."""
        present = self._journal.get(order.id)
        floor = self._journal.floor(order.id)
        wanted = transitions.ordered(present, order, boot=self._journal.boot, floor=floor)
        supervisor = self._supervisor(order.id)
        if present != wanted:
            self._journal.put(wanted)
            supervisor.reset_back_off()
            logger.bind(container=order.id, epoch=order.epoch, state=order.state.value).info(
                "order accepted"
            )
        supervisor.begin()
        supervisor.wake()
        return self.report(order.id)

    def delete(self, container_id: str, *, epoch: int) -> ContainerReport | None:
        """Begin to end and remove a container; None when there is none (any more)."""
        record = self._journal.get(container_id)
        if record is None:
            return None
        transitions.may_be_deleted(record, epoch=epoch)
        if record.order.state is not DesiredState.STOPPED:  # also after a restart of the agent
            order = record.order.model_copy(update={"state": DesiredState.STOPPED})
            self._journal.put(record.but(order=order, epoch=max(epoch, record.epoch)))
        supervisor = self._supervisor(container_id)
        supervisor.deleting = True
        supervisor.begin()
        supervisor.wake()
        return self.report(container_id)

    def report(self, container_id: str) -> ContainerReport:
        record = self._journal.get(container_id)
        if record is None:
            raise NotFound(f"container {container_id} is not on this node")
        return self._report(record)

    def reports(self) -> ContainerReports:
        return ContainerReports(containers=tuple(self._report(r) for r in self._journal.all()))

    def on_exit(self, container_id: str) -> None:
        """Its exit was seen."""
        supervisor = self._supervisors.get(container_id)
        if supervisor is not None:
            supervisor.wake()

    # What the roles of a migration use.

    async def pause_probes(self, container: str) -> None:
        """Let no probe run inside: no dump can take a command that the node started."""
        await self._supervisor(container).pause_probes()

    async def find_obstacles(self, container: str) -> tuple[Obstacle, ...]:
        """What in it keeps it from being moved live, right now."""
        return await self.migratability_scan.scan(container)

    async def wait_for_step(self, container: str) -> int | None:
        """Wait for what is just being done to it; disown it before the next await.

        Returns process 1 of what runs; an end that nobody has noted is noted.
        """
        return await self._supervisor(container).wait_for_step()

    def instance(self, container: str) -> int | None:
        """Process 1 of what runs now."""
        return self._supervisor(container).instance

    async def record_exit(self, container: str) -> bool:
        """Whether a copy has ended by itself although it was disowned to be frozen or stopped."""
        return await self._supervisor(container).record_exit()

    def lifecycle(self, container: str) -> Lifecycle:
        """What the next node has to know of a container that is frozen here."""
        return self._supervisor(container).lifecycle(_known(self._journal.get(container)))

    def disown(self, container: str) -> None:
        """Leave a copy alone: its end is not an exit. Before the freeze, or the destruction."""
        self._supervisor(container).disown()

    def readopt(self, container: str) -> None:
        """Look after a copy again that was disowned or quietened: the move did not happen."""
        self._keep(container)

    def _keep(self, container: str, lifecycle: Lifecycle | None = None) -> None:
        supervisor = self._supervisor(container)
        supervisor.adopt(lifecycle)
        supervisor.begin()

    def adopt(self, record: Record, *, pid: int | None, lifecycle: Lifecycle | None) -> None:
        """Look after a container that has come from elsewhere, whether it runs or not."""
        logger.bind(container=record.id, epoch=record.epoch, pid=pid).debug("container adopted")
        self._keep(record.id, lifecycle)

    async def start(self, record: Record) -> None:
        """Start from the image, as at first (Cold), unless it is to be stopped; look after it."""
        if record.order.state is not DesiredState.STOPPED:
            await self._instances.fetch(transitions.pinned(record))
            await self._instances.start(record.order)
            present, now = _known(self._journal.get(record.id)), self._deps.clock.now()
            self._journal.put(transitions.started(present, boot=self._journal.boot, now=now))
        self.readopt(record.id)

    async def stop(self, container: str) -> None:
        """Stop with signal and grace (Cold) a copy that was disowned; the record stays."""
        record = _known(self._journal.get(container))
        await self._instances.stop(record.order)
        await self._instances.clear(container)

    def _supervisor(self, container_id: str) -> Supervisor:
        known = self._supervisors.get(container_id)
        if known is None or known.finished:
            known = Supervisor(container_id, deps=self._deps)
            self._supervisors[container_id] = known
        return known

    def _report(self, record: Record) -> ContainerReport:
        observed = self._instances.observe(record.id)
        supervisor = self._supervisors.get(record.id)
        note = Note() if supervisor is None else _note(supervisor)
        return ContainerReport(
            id=record.id,
            namespace=record.namespace,
            name=record.name,
            epoch=record.epoch,
            record=record.state,
            run=observed.run,
            ready=_ready(record, observed, supervisor),
            start_time=record.start_time,
            restarts=record.restarts,
            last_exit=record.last_exit,
            image_digest=record.image_digest,
            migration=record.migration,
            obstacles=tuple(
                ReportedObstacle(
                    reason=each.reason,
                    message=each.message,
                    hint=each.hint,
                    strategies=each.strategies,
                )
                for each in self.migratability_scan.obstacles(record.id)
            ),
            awaits_memory=observed.awaits_memory,
            owes_memory=record.memory_goes_to is not None,
            released_to=_successor(record),
            reason=note.reason,
            message=note.message,
            hint=note.hint,
        )


def _ready(record: Record, observed: ObservedContainer, supervisor: Supervisor | None) -> bool:
    """Running, and the readiness and startup probes (if any) say so. In a handover: said so."""
    owned = record.state in OWNED
    gone = not observed.alive and record.state is not RecordState.RELEASED
    if gone or (owned and record.order.state is DesiredState.FROZEN):
        return False
    if owned and supervisor is not None and not supervisor.disowned:
        return supervisor.ready
    return record.probes is not None and record.probes.started and record.probes.ready


def _note(supervisor: Supervisor) -> Note:
    """What the probes say is told when there is nothing worse."""
    health = supervisor.health
    if supervisor.note.reason or health is None or not health.message:
        return supervisor.note
    return Note(Reason.CONTAINER_NOT_READY, health.message, Reason.CONTAINER_NOT_READY.hint)


def _successor(record: Record) -> str:
    if record.state is not RecordState.RELEASED or record.peer is None:
        return ""
    return record.peer.node


def _known(record: Record | None) -> Record:
    if record is None:
        raise NotFound("the container's record is gone")
    return record
