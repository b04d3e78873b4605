"""Reconciler: what the loop of one object does, whatever its kind.

A pass observes, decides and acts, and writes the status. Nothing that matters is remembered between
two passes but that status, which this loop alone writes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from loguru import logger

from transship.api.base import ApiModel, Resource
from transship.controller.deps import Deps
from transship.controller.reconcile.shutdown import Lifetime
from transship.controller.reconcile.status_writer import StatusWriter

R = TypeVar("R", bound=Resource)
S = TypeVar("S", bound=ApiModel)

UNEXPECTED_ERROR_PAUSE_SECONDS = 5.0


class Reconciler(ABC, Generic[R, S]):
    """Makes passes over one object until it is gone, or the process is to end."""

    def __init__(self, uid: str, *, deps: Deps, lifetime: Lifetime) -> None:
        self._uid = uid
        self._deps = deps
        self._lifetime = lifetime
        self._wake = deps.cache.wake_of(uid)
        self._writer: StatusWriter[R, S] | None = None

    async def run(self) -> None:
        """Return when nothing is left to do for the object, or the process is to end."""
        try:
            while not self._lifetime.over:
                self._wake.clear()
                resource = self._find()
                if resource is None:
                    return
                pause = await self._pass_safely(resource)
                if pause is None:
                    return
                await self._lifetime.wait(self._wake, seconds=pause)
        finally:
            await self._leave()

    @abstractmethod
    def _find(self) -> R | None:
        """The object as the cache has it. None: it is gone."""

    @abstractmethod
    def _status_of(self, resource: R, /) -> S:
        """The object's status as it was read."""

    @abstractmethod
    async def _pass(self, resource: R, /) -> float | None:
        """One pass; returns how many seconds to wait for the next, None at the end of all."""

    def _pass_failed(self, resource: R, _: Exception, /) -> float:
        """Called in the handler of what a pass has raised; returns when to try again, in seconds.

        A pass that fails for an unforeseen reason must not end the loop.
        """
        logger.bind(object=resource.metadata.name).exception("pass failed unexpectedly")
        return UNEXPECTED_ERROR_PAUSE_SECONDS

    async def _leave(self) -> None:
        """The loop has ended, for whatever reason."""
        if self._writer is not None:
            await self._writer.close()
        if not self._lifetime.over:
            self._deps.cache.forget(self._uid)

    def _writer_for(self, resource: R, /) -> StatusWriter[R, S]:
        """The writer of the object's status; starts from what was read in the first pass."""
        if self._writer is None:
            self._writer = StatusWriter(
                resource,
                self._status_of(resource),
                cluster=self._deps.cluster,
                cache=self._deps.cache,
            )
        return self._writer

    async def _pass_safely(self, resource: R, /) -> float | None:
        try:
            return await self._pass(resource)
        except Exception as e:
            return self._pass_failed(resource, e)
