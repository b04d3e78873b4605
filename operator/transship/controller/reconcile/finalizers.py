"""Finalizers: keeping an object until nothing of it is left, then letting it go.

Ours is put on and taken off here and nowhere else, by the object's own loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jsonpatch

from transship.api import FINALIZER
from transship.api.base import ObjectMeta, Resource
from transship.common.errors import Conflict, InvalidInput, NotFound
from transship.controller.ports import Cluster

R = TypeVar("R", bound=Resource)
Patch = list[dict[str, object]]

TRIES = 5


async def add_finalizer(resource: R, *, cluster: Cluster) -> R | None:
    """Put our finalizer on it; returns it as it then is, None where it is gone.

    One that is being deleted comes back as it is: the API server allows it no new finalizer.
    """
    return await _change(resource, addition_patch, cluster=cluster)


async def remove_finalizer(resource: Resource, *, cluster: Cluster) -> None:
    """Remove our finalizer, whatever others stand beside it; an object that is gone is fine."""
    await _change(resource, removal_patch, cluster=cluster)


async def _change(
    resource: R, change: Callable[[ObjectMeta], Patch], *, cluster: Cluster
) -> R | None:
    """Patch it as it is now; raises what the last try raised when others are always faster."""
    model, meta, present, tries_left = type(resource), resource.metadata, resource, TRIES
    while patch := change(present.metadata):
        tries_left -= 1
        try:
            return await cluster.json_patch(
                model, name=meta.name, namespace=meta.namespace, patch=patch
            )
        except NotFound:
            return None
        except (Conflict, InvalidInput):  # others changed the list, or the object
            if tries_left == 0:
                raise
        try:
            present = await cluster.get(model, name=meta.name, namespace=meta.namespace)
        except NotFound:
            return None
        if present.metadata.uid != meta.uid:
            return None
    return present


def addition_patch(meta: ObjectMeta) -> Patch:
    """The JSON patch, which holds only for this very version: nobody's finalizer gets lost."""
    if FINALIZER in meta.finalizers or meta.deletion_timestamp is not None:
        return []
    finalizers = [*meta.finalizers, FINALIZER]
    return [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
    ]


def removal_patch(meta: ObjectMeta) -> Patch:
    """The JSON patch, which holds only for this very object with these very finalizers."""
    finalizers = list(meta.finalizers)
    if FINALIZER not in finalizers:
        return []
    before = {"metadata": {"finalizers": finalizers}}
    after = {"metadata": {"finalizers": [f for f in finalizers if f != FINALIZER]}}
    changes: Patch = list(jsonpatch.make_patch(before, after))
    return [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": "/metadata/finalizers", "value": finalizers},
        *changes,
    ]
