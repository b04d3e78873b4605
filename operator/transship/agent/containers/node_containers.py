"""All containers of this node: orders, deletions, reports, and one supervisor for each.

The HTTP service calls it for the operator. The two roles of a migration call it too: `disown`
before a copy is frozen or destroyed, so that its end counts as no exit, and `adopt` for a container
that has come here.
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
    """The containers by id. Every change is written to the journal first."""

    def __init__(self, deps: SupervisorDeps) -> None:
        self._deps = deps
        self._journal = deps.journal
        self._instances = deps.instances
        self._supervisors: dict[str, Supervisor] = {}
        self.migratability_scan = MigratabilityScan(deps.journal, deps.instances)

    def begin(self) -> None:
        """Supervise all containers that this node owns; called after the roles have recovered."""
        for record in self._journal.all():
            if record.state in OWNED:
                self._supervisor(record.id).begin()

    async def close(self) -> None:
        """End all supervision; containers run on."""
        await asyncio.gather(*(supervisor.close() for supervisor in self._supervisors.values()))

    def apply(self, order: ContainerOrder) -> ContainerReport:
        """Accept an order and return at once; later reports say how far it was carried out.

        Raises Refused for a stale epoch, or a changed order during a migration.
        """
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
        """Begin to stop and remove a container. None if this node does not have it (any more)."""
        record = self._journal.get(container_id)
        if record is None:
            return None
        transitions.may_be_deleted(record, epoch=epoch)
        if record.order.state is not DesiredState.STOPPED:  # a restarted agent stops it too
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
        """Wake the supervisor of a container whose exit was reported."""
        supervisor = self._supervisors.get(container_id)
        if supervisor is not None:
            supervisor.wake()

    # What the roles of a migration use.

    async def pause_probes(self, container: str) -> None:
        """Stop the probes: CRIU cannot dump a command that the node started in the container."""
        await self._supervisor(container).pause_probes()

    async def find_obstacles(self, container: str) -> tuple[Obstacle, ...]:
        """What keeps a container from being moved live right now."""
        return await self.migratability_scan.scan(container)

    async def wait_for_step(self, container: str) -> int | None:
        """Wait for the supervisor's present step; the caller disowns before its next await.

        Records an exit that was not recorded yet. Returns the pid of process 1, or None.
        """
        return await self._supervisor(container).wait_for_step()

    def instance(self, container: str) -> int | None:
        """The pid of process 1 of the present instance; None if no instance runs."""
        return self._supervisor(container).instance

    async def record_exit(self, container: str) -> bool:
        """Record the exit of a disowned copy that has ended by itself. Returns whether it has."""
        return await self._supervisor(container).record_exit()

    def lifecycle(self, container: str) -> Lifecycle:
        """What the target must know of a container that is frozen here."""
        return self._supervisor(container).lifecycle(_known(self._journal.get(container)))

    def disown(self, container: str) -> None:
        """End supervision before a copy is frozen or destroyed: its end is no exit then."""
        self._supervisor(container).disown()

    def readopt(self, container: str) -> None:
        """Supervise a copy again after its migration was given up."""
        self._keep(container)

    def _keep(self, container: str, lifecycle: Lifecycle | None = None) -> None:
        supervisor = self._supervisor(container)
        supervisor.adopt(lifecycle)
        supervisor.begin()

    def adopt(self, record: Record, *, pid: int | None, lifecycle: Lifecycle | None) -> None:
        """Supervise a container that came from another node, whether it runs or not."""
        logger.bind(container=record.id, epoch=record.epoch, pid=pid).debug("container adopted")
        self._keep(record.id, lifecycle)

    async def start(self, record: Record) -> None:
        """Cold: start an instance unless the order wants it stopped, and supervise it."""
        if record.order.state is not DesiredState.STOPPED:
            await self._instances.fetch(transitions.pinned(record))
            await self._instances.start(record.order)
            present, now = _known(self._journal.get(record.id)), self._deps.clock.now()
            self._journal.put(transitions.started(present, boot=self._journal.boot, now=now))
        self.readopt(record.id)

    async def stop(self, container: str) -> None:
        """Cold: stop a disowned copy with its signal and grace period; the record stays."""
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
                    reason=obstacle.reason,
                    message=obstacle.message,
                    hint=obstacle.hint,
                    strategies=obstacle.strategies,
                )
                for obstacle in self.migratability_scan.obstacles(record.id)
            ),
            awaits_memory=observed.awaits_memory,
            owes_memory=record.memory_goes_to is not None,
            released_to=_successor(record),
            reason=note.reason,
            message=note.message,
            hint=note.hint,
        )


def _ready(record: Record, observed: ObservedContainer, supervisor: Supervisor | None) -> bool:
    """Whether it runs and its probes succeed; in a handover, the last recorded result."""
    owned = record.state in OWNED
    gone = not observed.alive and record.state is not RecordState.RELEASED
    if gone or (owned and record.order.state is DesiredState.FROZEN):
        return False
    if owned and supervisor is not None and not supervisor.disowned:
        return supervisor.ready
    return record.probes is not None and record.probes.started and record.probes.ready


def _note(supervisor: Supervisor) -> Note:
    """The supervisor's note, or the message of the probes if there is none."""
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
