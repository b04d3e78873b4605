"""Handlers: kopf's events fill the cache and start the loops.

Only handlers of events are used, with which kopf writes nothing to our objects. No handler returns
anything, since kopf would write that to the status.
"""

from __future__ import annotations

from typing import Any, TypeVar

import kopf
from loguru import logger
from pydantic import ValidationError

from transship.api import GROUP, VERSION
from transship.api.address_pool import AddressPool
from transship.api.base import Resource
from transship.api.kinds import kind_of
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.controller.deps import Deps
from transship.controller.node.nodes import OUT_OF_SERVICE
from transship.controller.reconcile.loops import Loops
from transship.kube.nodes import has_taint

R = TypeVar("R", bound=Resource)

WATCHED: tuple[type[Resource], ...] = (ContainerPlacement, ContainerMigration, NodeAgent)

POOLS = "pools"
"""What is woken when an AddressPool changes."""


def register(registry: kopf.OperatorRegistry, deps: Deps, loops: Loops) -> None:
    """Bind kopf's events of our kinds to these dependencies."""
    for model in WATCHED:
        _register_events(registry, deps, loops, model)

    @kopf.on.event("", "v1", "nodes", id="Node", registry=registry)
    async def node_changed(event: kopf.RawEvent, **_: Any) -> None:
        document = event["object"]
        tainted = event["type"] != "DELETED" and has_taint(document, OUT_OF_SERVICE)
        deps.cache.note_out_of_service(document["metadata"]["name"], tainted=tainted)

    @kopf.on.event(GROUP, VERSION, kind_of(AddressPool).plural, id="AddressPool", registry=registry)
    async def pool_changed(**_: Any) -> None:
        deps.cache.wake_of(POOLS).set()
        deps.cache.wake_without_address()


def _register_events(
    registry: kopf.OperatorRegistry, deps: Deps, loops: Loops, model: type[Resource]
) -> None:
    @kopf.on.event(GROUP, VERSION, kind_of(model).plural, id=model.__name__, registry=registry)
    async def handle_event(event: kopf.RawEvent, **_: Any) -> None:
        resource, gone = parsed(model, event["object"]), event["type"] == "DELETED"
        if resource is None:
            if not gone:
                deps.cache.note_unreadable(model, event["object"]["metadata"]["name"])
        elif gone:
            deps.cache.drop(resource)
        else:
            loops.ensure_loop(deps.cache.put(resource))


def parsed(model: type[R], document: Any) -> R | None:
    """What another version of us wrote may be unreadable to us: leave it alone."""
    try:
        return model.model_validate(document)
    except ValidationError as e:
        meta = document.get("metadata", {})
        log = logger.bind(object=f"{meta.get('namespace')}/{meta.get('name')}")
        log.bind(kind=model.__name__, error=str(e)).warning("object cannot be read")
        return None
