"""PlacementEffects: carries out the steps of a placement. Each can be repeated."""

from __future__ import annotations

from collections.abc import Sequence

from loguru import logger

from transship.agentapi.containers import ContainerOrder
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import RecordState, Verdict
from transship.api import API_VERSION, FINALIZER
from transship.api.base import ObjectMeta, OwnerReference
from transship.api.migration import ContainerMigration, MigrationSpec
from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.api.reasons import Reason
from transship.common.errors import Conflict, NotFound, Refused, TransshipError
from transship.controller.deps import Deps
from transship.controller.migration.history import (
    LABEL_GENERATION,
    LABEL_PLACEMENT_UID,
    migration_name,
)
from transship.controller.node.requests import demand_of
from transship.controller.placement.owner import copy_at
from transship.controller.placement.scheduling import entrance
from transship.controller.placement.status import with_order, with_owner
from transship.controller.placement.steps import (
    Allocate,
    Cancel,
    CleanUp,
    Done,
    Move,
    ObservedPlacement,
    Order,
    RecordCancellation,
    RecordOwner,
    Release,
    Remove,
    Step,
    Wait,
)
from transship.controller.reconcile.status_writer import StatusWriter

AT_ONCE = 0.0
SOON_SECONDS = 0.1  # an order or an end takes a moment to show in the agent's report
CLEAN_UP_PAUSE_SECONDS = 0.5
MIGRATION_PAUSE_SECONDS = 30.0  # its events wake the loop


class PlacementEffects:
    """Takes one step; returns how long to wait for the next pass."""

    def __init__(
        self, deps: Deps, writer: StatusWriter[ContainerPlacement, PlacementStatus]
    ) -> None:
        self._deps = deps
        self._writer = writer

    async def do(self, step: Step, observed: ObservedPlacement) -> float:
        """Raises TransshipError when the step could not be taken now."""
        match step:
            case Allocate() | Release():
                return await self._address(step, observed)
            case RecordOwner():
                return await self._record_owner(step, observed)
            case RecordCancellation():
                return await self._record_cancellation(step, observed)
            case Order() | Remove() | CleanUp():
                return await self._instruct(step, observed)
            case Move() | Cancel():
                return await self._history(step, observed)
            case Done() | Wait():
                return AT_ONCE

    async def try_beside(
        self, steps: Sequence[Remove | CleanUp], observed: ObservedPlacement
    ) -> None:
        """Take those of the steps that can be taken now."""
        for step in steps:
            try:
                await self._instruct(step, observed)
            except TransshipError as e:
                name = observed.placement.metadata.name
                logger.bind(placement=name, node=step.node).warning("not removed: {}", e)

    async def _address(self, step: Allocate | Release, observed: ObservedPlacement) -> float:
        book = self._deps.addresses
        if isinstance(step, Allocate):
            addresses = await book.take(observed.placement)
            self._record_event(observed, Reason.ADDRESS_ALLOCATED, ", ".join(addresses))
        else:
            await book.give_back(observed.placement)
            addresses = ()
        taken = {"address": next(iter(addresses), None), "addresses": addresses}
        self._writer.current = self._writer.current.model_copy(update=taken)
        return AT_ONCE

    async def _record_owner(self, step: RecordOwner, observed: ObservedPlacement) -> float:
        """Write the owner before its agent is ordered: the next operator orders the same node."""
        uid = observed.placement.metadata.uid
        if step.starts and self._is_barred(step.node, observed):
            # another placement was faster
            return AT_ONCE
        with self._deps.cache.reserving(uid, node=step.node):
            return await self._write_owner(step, observed)

    def _is_barred(self, node: str, observed: ObservedPlacement) -> bool:
        """Check again: other placements may have been placed since this pass observed the nodes."""
        wanted = demand_of(observed.placement)
        return entrance(node, nodes=self._deps.agent_poller.nodes(), wanted=wanted) is not None

    async def _write_owner(self, step: RecordOwner, observed: ObservedPlacement) -> float:
        # not a flush: while the API server is away, what was decided from would grow old
        await self._writer.current_write()
        present = self._deps.cache.placement(observed.placement.metadata.uid) or observed.placement
        status = with_owner(self._writer.current, step, observed)
        try:
            await self._writer.write(status, resource_version=present.metadata.resource_version)
        except Conflict:
            meta = observed.placement.metadata
            self._deps.cache.put(
                await self._deps.cluster.get(
                    ContainerPlacement, name=meta.name, namespace=meta.namespace
                )
            )
            return SOON_SECONDS
        self._record_event(observed, step.why, f"on {step.node} as epoch {step.epoch}")
        logger.bind(
            placement=observed.placement.metadata.name,
            node=step.node,
            epoch=step.epoch,
            reason=step.why.value,
        ).info("owner written down")
        return AT_ONCE

    async def _record_cancellation(
        self, step: RecordCancellation, observed: ObservedPlacement
    ) -> float:
        noted = {"cancelled_generation": step.generation}
        await self._writer.write(self._writer.current.model_copy(update=noted))
        return AT_ONCE

    async def _instruct(self, step: Order | Remove | CleanUp, observed: ObservedPlacement) -> float:
        agent = self._deps.agent_poller.agent(step.node)
        uid = observed.placement.metadata.uid
        match step:
            case Order():
                order = await self._deps.resolver.order(
                    observed.placement, self._writer.current, node=step.node, epoch=step.epoch
                )
                await agent.put_container(_with_end(order, self._writer.current))
                self._writer.current = with_order(self._writer.current, step, id=uid)
                logger.bind(
                    placement=observed.placement.metadata.name, node=step.node, epoch=step.epoch
                ).info("container ordered")
            case Remove():
                await agent.remove_container(uid, epoch=step.epoch)
            case CleanUp():
                await self._clean_up(step, observed)
                return CLEAN_UP_PAUSE_SECONDS
        return SOON_SECONDS

    async def _clean_up(self, step: CleanUp, observed: ObservedPlacement) -> None:
        """Remove what a finished migration left on an agent, unless it runs after all."""
        if await self._is_running(step.migration, observed):
            return
        agent = self._deps.agent_poller.agent(step.node)
        try:
            match step.record:
                case RecordState.RELEASED:
                    await agent.forget_outgoing(step.migration, gone=observed.fenced)
                case RecordState.HELD:
                    await agent.relay(_discard(step, observed))
                    await agent.forget_incoming(step.migration)
                case RecordState.INCOMING:
                    await agent.abort_incoming(step.migration)
                    await agent.forget_incoming(step.migration)
                case RecordState.RUNNING | RecordState.STOPPED | RecordState.FROZEN:
                    await agent.abort_outgoing(
                        step.migration, container=observed.placement.metadata.uid
                    )
                    await agent.forget_outgoing(step.migration)
        except Refused as e:
            # its agent cannot do it in its present state
            logger.bind(node=step.node, migration=step.migration).debug("not cleaned up yet: {}", e)

    async def _is_running(self, migration_uid: str, observed: ObservedPlacement) -> bool:
        """Ask the API server: our cache may not have the migration yet."""
        meta = observed.placement.metadata
        listing = await self._deps.cluster.listing(
            ContainerMigration,
            namespace=meta.namespace,
            label_selector=f"{LABEL_PLACEMENT_UID}={meta.uid}",
        )
        for migration in listing.resources:
            self._deps.cache.put(migration)
        finished = {s.metadata.uid for s in observed.migrations}
        return migration_uid in listing.uids - finished

    async def _history(self, step: Move | Cancel, observed: ObservedPlacement) -> float:
        if isinstance(step, Move):
            return await self._move(step, observed)
        return await self._cancel(step, observed)

    async def _move(self, step: Move, observed: ObservedPlacement) -> float:
        uid = observed.placement.metadata.uid
        with (
            self._deps.limits.reserve(uid, source=step.source, target=step.target) as ours,
            self._deps.cache.reserving(uid, node=step.target),
        ):
            if not ours or self._is_barred(step.target, observed):
                return AT_ONCE
            # the migration compares its order with the one recorded in the status
            await self._writer.flush()
            created = await self._create(new_migration(step, observed.placement))
            self._deps.cache.put(created)
        logger.bind(
            placement=observed.placement.metadata.name,
            migration=created.metadata.name,
            source=step.source,
            target=step.target,
        ).info("migration created")
        self._record_event(
            observed,
            Reason.MIGRATION_STARTED,
            f"from {step.source} to {step.target}, see {created.metadata.name}",
        )
        return MIGRATION_PAUSE_SECONDS

    async def _create(self, migration: ContainerMigration) -> ContainerMigration:
        try:
            return await self._deps.cluster.create(migration)
        except Conflict:
            meta = migration.metadata
            present = await self._deps.cluster.get(
                ContainerMigration, name=meta.name, namespace=meta.namespace
            )
        if present.spec.placement_uid != migration.spec.placement_uid:
            raise TransshipError(
                f"creating ContainerMigration {meta.name}: the name is taken",
                reason=Reason.ALREADY_EXISTS,
                hint="delete it",
            )
        return present

    async def _cancel(self, step: Cancel, observed: ObservedPlacement) -> float:
        try:
            await self._deps.cluster.delete(
                ContainerMigration, name=step.name, namespace=observed.placement.metadata.namespace
            )
        except NotFound:
            for migration in observed.migrations:
                if migration.metadata.name == step.name:
                    self._deps.cache.drop(migration)
        return SOON_SECONDS

    def _record_event(self, observed: ObservedPlacement, reason: Reason, note: str) -> None:
        self._deps.recorder.record_normal(observed.placement, reason=reason, note=note)


def _with_end(order: ContainerOrder, status: PlacementStatus) -> ContainerOrder:
    """What has completed is not started anew by a node that does not have it."""
    container = status.container
    if container is None or not container.completed:
        return order
    return order.model_copy(update={"completed": True, "last_exit": container.last_exit})


def _discard(step: CleanUp, observed: ObservedPlacement) -> VerdictNotice:
    """The word that a held copy is never released."""
    copy = copy_at(observed.reported_copies, step.node)
    epoch = copy.report.epoch if copy is not None else 0
    return VerdictNotice(migration=step.migration, verdict=Verdict.ABORTED, epoch=epoch)


def new_migration(step: Move, placement: ContainerPlacement) -> ContainerMigration:
    """The migration object of a move. It has our finalizer from the start."""
    meta = placement.metadata
    return ContainerMigration(
        metadata=ObjectMeta(
            name=migration_name(meta.name, epoch=step.epoch, attempt=step.attempt),
            namespace=meta.namespace,
            labels={
                LABEL_PLACEMENT_UID: meta.uid,
                LABEL_GENERATION: str(meta.generation),
            },
            finalizers=(FINALIZER,),
            owner_references=(
                OwnerReference(
                    api_version=API_VERSION,
                    kind="ContainerPlacement",
                    name=meta.name,
                    uid=meta.uid,
                    controller=True,
                ),
            ),
        ),
        spec=MigrationSpec(
            placement_name=meta.name,
            placement_uid=meta.uid,
            source_node=step.source,
            target_node=step.target,
            epoch=step.epoch,
            attempt=step.attempt,
            settings=placement.spec.migration,
        ),
    )
