"""Finalizers: letting an object go once nothing of it is left.

kopf removes its finalizer itself, but only at its next look at the object, which for a daemon that
takes its time is up to a minute later. The loops remove it at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import jsonpatch

from transship.api import FINALIZER
from transship.api.base import Resource
from transship.common.errors import Conflict, InvalidInput, NotFound
from transship.controller.ports import Cluster

TRIES = 5


async def let_go(resource: Resource, *, cluster: Cluster) -> None:
    """Remove our finalizer, whatever others stand beside it; an object that is gone is fine."""
    present = resource
    for _ in range(TRIES):
        patch = removal(present.metadata.finalizers, uid=resource.metadata.uid)
        if not patch:
            return
        meta = present.metadata
        try:
            await cluster.json_patch(
                type(present), name=meta.name, namespace=meta.namespace, patch=patch
            )
        except NotFound:
            return
        except (Conflict, InvalidInput):  # others changed the list, or the object
            try:
                present = await cluster.get(type(present), name=meta.name, namespace=meta.namespace)
            except NotFound:
                return
            if present.metadata.uid != resource.metadata.uid:
                return
        else:
            return


def removal(finalizers: Sequence[str], *, uid: str) -> list[dict[str, object]]:
    """The JSON patch, which holds only for this very object with these very finalizers."""
    if FINALIZER not in finalizers:
        return []
    before = {"metadata": {"finalizers": list(finalizers)}}
    after = {"metadata": {"finalizers": [f for f in finalizers if f != FINALIZER]}}
    changes: list[dict[str, object]] = list(jsonpatch.make_patch(before, after))
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": "/metadata/finalizers", "value": list(finalizers)},
        *changes,
    ]
