"""Our finalizer keeps an object until nothing of it is left on any node.

Only the object's own loop adds and removes it, by these functions.
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
    """Add our finalizer. Returns the object as it is then, None where it is gone.

    An object that is being deleted stays as it is: the API server allows no new finalizer.
    """
    return await _change(resource, addition_patch, cluster=cluster)


async def remove_finalizer(resource: Resource, *, cluster: Cluster) -> None:
    """Remove our finalizer and no other. An object that is gone is no error."""
    await _change(resource, removal_patch, cluster=cluster)


async def _change(
    resource: R, change: Callable[[ObjectMeta], Patch], *, cluster: Cluster
) -> R | None:
    """Patch the newest version. Raises the last error when others always change it first."""
    model, meta, present, tries_left = type(resource), resource.metadata, resource, TRIES
    while patch := change(present.metadata):
        tries_left -= 1
        try:
            return await cluster.json_patch(
                model, name=meta.name, namespace=meta.namespace, patch=patch
            )
        except NotFound:
            return None
        except (Conflict, InvalidInput):
            # others have changed the list or the object meanwhile
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
    """The JSON patch. It applies to this version only, so that no other finalizer is lost."""
    if FINALIZER in meta.finalizers or meta.deletion_timestamp is not None:
        return []
    finalizers = [*meta.finalizers, FINALIZER]
    return [
        {"op": "test", "path": "/metadata/uid", "value": meta.uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": meta.resource_version},
        {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
    ]


def removal_patch(meta: ObjectMeta) -> Patch:
    """The JSON patch. It applies only to this object with exactly these finalizers."""
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
