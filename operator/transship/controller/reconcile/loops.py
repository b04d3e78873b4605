"""Loops: a task per placement and per migration that is not finished and cleaned up.

They are not kopf daemons: kopf starts none for an object that is already being deleted when kopf
first sees it, and removes its finalizer at once. Its container would run on without an owner.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

from loguru import logger

from transship.api import FINALIZER
from transship.api.base import Resource
from transship.api.migration import ContainerMigration
from transship.api.placement import ContainerPlacement
from transship.controller.deps import Deps
from transship.controller.migration.history import is_finished
from transship.controller.migration.reconciler import MigrationReconciler
from transship.controller.placement.reconciler import PlacementReconciler
from transship.controller.reconcile.shutdown import Lifetime


class Loop(Protocol):
    async def run(self) -> None: ...


class Loops:
    """The loops of this process, at most one per object."""

    def __init__(self, deps: Deps, lifetime: Lifetime) -> None:
        self._deps = deps
        self._lifetime = lifetime
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def with_loop(self) -> frozenset[str]:
        """The uids of the objects that have a loop."""
        return frozenset(self._tasks)

    def ensure_loop(self, resource: Resource) -> None:
        """Start a loop for the object, unless it has one or needs none."""
        uid = resource.metadata.uid
        if uid in self._tasks or not needs_loop(resource):
            return
        loop = self._loop_for(resource)
        if loop is None:
            return
        task = asyncio.create_task(loop.run(), name=f"loop of {resource.metadata.name}")
        self._tasks[uid] = task
        task.add_done_callback(partial(self._ended, resource))

    def resume(self) -> None:
        """Start a loop for each object with our finalizer: only a loop removes it."""
        for resource in self._deps.cache.with_finalizer():
            self.ensure_loop(resource)

    async def end(self) -> None:
        """Cancel all loops: the next process goes on from the written statuses."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _loop_for(self, resource: Resource) -> Loop | None:
        uid = resource.metadata.uid
        match resource:
            case ContainerPlacement():
                return PlacementReconciler(uid, deps=self._deps, lifetime=self._lifetime)
            case ContainerMigration():
                return MigrationReconciler(uid, deps=self._deps, lifetime=self._lifetime)
            case _:
                return None

    def _ended(self, resource: Resource, task: asyncio.Task[None]) -> None:
        del self._tasks[resource.metadata.uid]
        if not task.cancelled() and (error := task.exception()) is not None:
            log = logger.bind(object=resource.metadata.name).opt(exception=error)
            log.error("loop ended unexpectedly")


def needs_loop(resource: Resource) -> bool:
    """Whether something is left to do for the object: our finalizer is removed last."""
    if FINALIZER in resource.metadata.finalizers:
        return True
    match resource:
        case ContainerPlacement():
            return resource.metadata.deletion_timestamp is None
        case ContainerMigration():
            return not is_finished(resource)
        case _:
            return False
