"""PlacementEffects: the effects of a placement's steps. Each can be repeated."""

from __future__ import annotations

from loguru import logger

from transship.agentapi.states import RecordState
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
from transship.controller.placement.scheduling import entrance
from transship.controller.placement.status import claimed, with_order
from transship.controller.placement.steps import (
    Allocate,
    Cancel,
    Claim,
    Done,
    Move,
    NoteCancel,
    Order,
    Release,
    Remove,
    Seen,
    Step,
    Tidy,
    Wait,
)
from transship.controller.reconcile.status_writer import StatusWriter

AT_ONCE = 0.0
SOON_SECONDS = 0.1  # an order or an end takes a moment to show in the agent's report
TIDY_PAUSE_SECONDS = 0.5
MIGRATION_PAUSE_SECONDS = 30.0  # its events wake the loop


class PlacementEffects:
    """Takes one step; returns how long to wait for the next pass."""

    def __init__(
        self, deps: Deps, writer: StatusWriter[ContainerPlacement, PlacementStatus]
    ) -> None:
        self._deps = deps
        self._writer = writer

    async def do(self, step: Step, seen: Seen) -> float:
        """Raises TransshipError when the step could not be taken now."""
        match step:
            case Allocate() | Release():
                return await self._address(step, seen)
            case Claim():
                return await self._claim(step, seen)
            case NoteCancel():
                return await self._note_cancel(step, seen)
            case Order() | Remove() | Tidy():
                return await self._instruct(step, seen)
            case Move() | Cancel():
                return await self._history(step, seen)
            case Done() | Wait():
                return AT_ONCE

    async def _address(self, step: Allocate | Release, seen: Seen) -> float:
        book = self._deps.addresses
        if isinstance(step, Allocate):
            addresses = await book.take(seen.placement)
            self._tell(seen, Reason.ADDRESS_ALLOCATED, ", ".join(addresses))
        else:
            await book.give_back(seen.placement)
            addresses = ()
        taken = {"address": next(iter(addresses), None), "addresses": addresses}
        self._writer.current = self._writer.current.model_copy(update=taken)
        return AT_ONCE

    async def _claim(self, step: Claim, seen: Seen) -> float:
        """Durable before the node is asked: an operator that comes after us asks the same node."""
        uid = seen.placement.metadata.uid
        if step.starts and self._is_barred(step.node, seen):
            return AT_ONCE  # another placement was faster: decide anew
        with self._deps.cache.claimed(uid, node=step.node):
            return await self._write_claim(step, seen)

    def _is_barred(self, node: str, seen: Seen) -> bool:
        """Asked at the last moment: what was decided from may be older than other decisions."""
        wanted = demand_of(seen.placement)
        return entrance(node, nodes=self._deps.agent_poller.nodes(), wanted=wanted) is not None

    async def _write_claim(self, step: Claim, seen: Seen) -> float:
        await self._writer.flush()
        present = self._deps.cache.placement(seen.placement.metadata.uid) or seen.placement
        status = claimed(self._writer.current, step, seen)
        try:
            await self._writer.write(status, resource_version=present.metadata.resource_version)
        except Conflict:
            self._writer.current = seen.status
            meta = seen.placement.metadata
            self._deps.cache.put(
                await self._deps.cluster.get(
                    ContainerPlacement, name=meta.name, namespace=meta.namespace
                )
            )
            return SOON_SECONDS
        self._tell(seen, step.why, f"on {step.node} as epoch {step.epoch}")
        logger.bind(
            placement=seen.placement.metadata.name, node=step.node, epoch=step.epoch,
            reason=step.why.value,
        ).info("owner written down")  # fmt: skip
        return AT_ONCE

    async def _note_cancel(self, step: NoteCancel, seen: Seen) -> float:
        noted = {"cancelled_generation": step.generation}
        await self._writer.write(self._writer.current.model_copy(update=noted))
        return AT_ONCE

    async def _instruct(self, step: Order | Remove | Tidy, seen: Seen) -> float:
        agent = self._deps.agent_poller.agent(step.node)
        uid = seen.placement.metadata.uid
        match step:
            case Order():
                order = await self._deps.resolver.order(
                    seen.placement, self._writer.current, node=step.node, epoch=step.epoch
                )
                await agent.put_container(order)
                self._writer.current = with_order(self._writer.current, step, id=uid)
                logger.bind(
                    placement=seen.placement.metadata.name, node=step.node, epoch=step.epoch
                ).info("container ordered")
            case Remove():
                await agent.remove_container(uid, epoch=step.epoch)
            case Tidy():
                await self._tidy(step, seen)
                return TIDY_PAUSE_SECONDS
        return SOON_SECONDS

    async def _tidy(self, step: Tidy, seen: Seen) -> None:
        """End what a migration left on an agent, unless the migration is there after all."""
        if await self._is_running(step.migration, seen):
            return
        agent = self._deps.agent_poller.agent(step.node)
        try:
            match step.record:
                case RecordState.RELEASED:
                    await agent.forget_outgoing(step.migration, gone=seen.fenced)
                case RecordState.INCOMING | RecordState.HELD:
                    await agent.abort_incoming(step.migration)
                    await agent.forget_incoming(step.migration)
                case RecordState.RUNNING | RecordState.STOPPED | RecordState.FROZEN:
                    await agent.abort_outgoing(
                        step.migration, container=seen.placement.metadata.uid
                    )
                    await agent.forget_outgoing(step.migration)
        except Refused as e:  # it is held, and asks its source by itself
            logger.bind(node=step.node, migration=step.migration).debug("not tidied yet: {}", e)

    async def _is_running(self, migration_uid: str, seen: Seen) -> bool:
        """Ask the API server: our cache may not have heard of it yet."""
        meta = seen.placement.metadata
        found = await self._deps.cluster.listing(
            ContainerMigration,
            namespace=meta.namespace,
            label_selector=f"{LABEL_PLACEMENT_UID}={meta.uid}",
        )
        for migration in found.resources:
            self._deps.cache.put(migration)
        finished = {s.metadata.uid for s in seen.migrations}
        return migration_uid in found.uids - finished

    async def _history(self, step: Move | Cancel, seen: Seen) -> float:
        if isinstance(step, Move):
            return await self._move(step, seen)
        return await self._cancel(step, seen)

    async def _move(self, step: Move, seen: Seen) -> float:
        uid = seen.placement.metadata.uid
        with (
            self._deps.turns.taken(uid, source=step.source, target=step.target) as ours,
            self._deps.cache.claimed(uid, node=step.target),
        ):
            if not ours or self._is_barred(step.target, seen):
                return AT_ONCE
            await self._writer.flush()  # the migration compares its order with the one noted there
            created = await self._create(new_migration(step, seen.placement))
            self._deps.cache.put(created)
        logger.bind(
            placement=seen.placement.metadata.name, migration=created.metadata.name,
            source=step.source, target=step.target,
        ).info("migration created")  # fmt: skip
        self._tell(
            seen, Reason.MIGRATION_STARTED,
            f"from {step.source} to {step.target}, see {created.metadata.name}",
        )  # fmt: skip
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

    async def _cancel(self, step: Cancel, seen: Seen) -> float:
        try:
            await self._deps.cluster.delete(
                ContainerMigration, name=step.name, namespace=seen.placement.metadata.namespace
            )
        except NotFound:
            for migration in seen.migrations:
                if migration.metadata.name == step.name:
                    self._deps.cache.drop(migration)
        return SOON_SECONDS

    def _tell(self, seen: Seen, reason: Reason, note: str) -> None:
        self._deps.recorder.tell(seen.placement, reason=reason, note=note)


def new_migration(step: Move, placement: ContainerPlacement) -> ContainerMigration:
    """Its finalizer is there from the start: nobody can delete it unnoticed."""
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
