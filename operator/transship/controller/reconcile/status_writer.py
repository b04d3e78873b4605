"""StatusWriter: writes one object's status to the API server.

An offered status is written soon by a background task, and only the newest one counts. What must be
durable before the next step is written at once.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

import jsonpatch
from loguru import logger

from transship.api.base import ApiModel, Resource
from transship.common.errors import Conflict, NotFound, TransshipError
from transship.common.tasks import Tasks
from transship.controller.cache import ResourceCache
from transship.controller.ports import Cluster

R = TypeVar("R", bound=Resource)
S = TypeVar("S", bound=ApiModel)

GAP_SECONDS = 0.05  # between two writes in the background: a handover changes state every few ms
RETRY_SECONDS = 1.0


class StatusWriter(Generic[R, S]):
    """The only writer of one object's status. `current`: the newest status, written or not yet."""

    def __init__(self, resource: R, status: S, *, cluster: Cluster, cache: ResourceCache) -> None:
        self.current = status
        self._model = type(resource)
        self._meta = resource.metadata
        self._cluster = cluster
        self._cache = cache
        self._written = status
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    def offer(self, status: S) -> None:
        """Have a status written in the background."""
        self.current = status
        if self._closed or status == self._written:
            return
        if self._task is None or self._task.done():
            self._task = self._tasks.begin(self._catch_up(), name=f"status {self._meta.name}")

    async def write(self, status: S, *, resource_version: str | None = None) -> None:
        """Write now. With a version: Conflict when the object has changed since.

        What could not be written is not `current`: nobody acts on it, and nothing writes it later.
        """
        async with self._lock:
            await self._send(status, resource_version=resource_version)
            self.current = status

    async def close(self) -> None:
        """Write nothing more."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def flush(self) -> None:
        """Wait until the offered status is written, or cannot be."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def current_write(self) -> None:
        """Wait for the end of the one request that may be under way."""
        async with self._lock:
            pass

    async def _catch_up(self) -> None:
        while self.current != self._written:
            try:
                async with self._lock:
                    await self._send(self.current, resource_version=None)
            except (NotFound, Conflict):
                return  # the object is gone, and its loop learns of it by an event
            except TransshipError as e:
                logger.bind(object=self._meta.name).warning("status not written yet: {}", e)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(GAP_SECONDS)

    async def _send(self, status: S, *, resource_version: str | None) -> None:
        written = await self._cluster.apply_status(
            self._model,
            name=self._meta.name,
            namespace=self._meta.namespace,
            uid=self._meta.uid,
            resource_version=resource_version,
            status=status,
        )
        self._log_changes(status)
        self._written = status
        self._cache.put(written)

    def _log_changes(self, status: S) -> None:
        changes = jsonpatch.make_patch(self._written.dump(), status.dump())
        paths = sorted({operation["path"] for operation in changes})
        logger.bind(object=self._meta.name, paths=paths).debug("status written")
