"""Handlers: where kopf meets the loops. Events feed the directory, a daemon runs each loop.

Only what is low-level in kopf is used (events and daemons): it then writes nothing to our objects
but its finalizer. Nothing is returned from a handler, which kopf would write to the status.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import kopf
from loguru import logger
from pydantic import ValidationError

from transship.api import FINALIZER, GROUP, VERSION
from transship.api.address_pool import AddressPool
from transship.api.base import Resource
from transship.api.kinds import kind_of
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.controller.deps import Deps
from transship.controller.life import wait_for_any
from transship.controller.migrations import MigrationLoop
from transship.controller.placements import PlacementLoop

R = TypeVar("R", bound=Resource)

WATCHED: tuple[type[Resource], ...] = (ContainerPlacement, ContainerMigration, NodeAgent)

POOLS = "pools"
"""What is woken when an AddressPool changes."""

# kopf gives an exiting daemon 5 s; one that is past its object's deletion is not told of the exit
LONGEST_WAIT_WHILE_DELETING_SECONDS = 1.0


class KopfLife:
    """A loop's life as kopf's stop flag tells it.

    The flag is also raised when the object is to be deleted, which is no end but work to be done.
    """

    def __init__(self, stopped: kopf.DaemonStopped) -> None:
        self._stopped = stopped

    @property
    def over(self) -> bool:
        reason = self._stopped.reason
        ends = kopf.DaemonStoppingReason
        return reason is not None and bool(
            reason & (ends.OPERATOR_EXITING | ends.OPERATOR_PAUSING | ends.DAEMON_CANCELLED)
        )

    async def wait(self, wake: asyncio.Event, *, seconds: float) -> None:
        if self._stopped.is_set():
            await wait_for_any(wake, seconds=min(seconds, LONGEST_WAIT_WHILE_DELETING_SECONDS))
            return
        stop = asyncio.Event()
        watcher = asyncio.create_task(_set_when(self._stopped, stop))
        try:
            await wait_for_any(wake, stop, seconds=seconds)
        finally:
            watcher.cancel()


async def _set_when(stopped: kopf.DaemonStopped, event: asyncio.Event) -> None:
    _ = await stopped.wait()
    event.set()


def register(registry: kopf.OperatorRegistry, deps: Deps) -> None:
    """Bind kopf's events and daemons of our kinds to these dependencies."""
    for model in WATCHED:
        _register_events(registry, deps, model)

    @kopf.on.event(GROUP, VERSION, kind_of(AddressPool).plural, id="AddressPool", registry=registry)
    async def pool_changed(**_: Any) -> None:
        deps.directory.wake_of(POOLS).set()
        deps.directory.wake_without_address()

    @kopf.daemon(GROUP, VERSION, kind_of(ContainerPlacement).plural, registry=registry)
    async def placement(uid: str, stopped: kopf.DaemonStopped, **_: Any) -> None:
        await PlacementLoop(uid, deps=deps, life=KopfLife(stopped)).run()

    @kopf.daemon(
        GROUP, VERSION, kind_of(ContainerMigration).plural, registry=registry, when=is_unfinished
    )
    async def migration(uid: str, stopped: kopf.DaemonStopped, **_: Any) -> None:
        await MigrationLoop(uid, deps=deps, life=KopfLife(stopped)).run()


def is_unfinished(body: kopf.Body, **_: Any) -> bool:
    """Under way, or over but not tidied up: the finalizer goes last."""
    if FINALIZER in body.get("metadata", {}).get("finalizers", ()):
        return True
    conditions = body.get("status", {}).get("conditions", ())
    return not any(c["type"] == "Succeeded" and c["status"] != "Unknown" for c in conditions)


def _register_events(registry: kopf.OperatorRegistry, deps: Deps, model: type[Resource]) -> None:
    @kopf.on.event(GROUP, VERSION, kind_of(model).plural, id=model.__name__, registry=registry)
    async def seen(event: kopf.RawEvent, **_: Any) -> None:
        resource = parsed(model, event["object"])
        if resource is None:
            return
        if event["type"] == "DELETED":
            deps.directory.drop(resource)
        else:
            deps.directory.put(resource)


def parsed(model: type[R], document: Any) -> R | None:
    """What another version of us wrote may be unreadable to us: leave it alone."""
    try:
        return model.model_validate(document)
    except ValidationError as e:
        meta = document.get("metadata", {})
        log = logger.bind(object=f"{meta.get('namespace')}/{meta.get('name')}")
        log.bind(kind=model.__name__, error=str(e)).warning("object cannot be read")
        return None
