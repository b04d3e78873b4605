"""Kubernetes' Nodes. Only their taints are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transship.kube.client import KubeClient
from transship.kube.paths import path
from transship.kube.transport import Request


def has_taint(document: Mapping[str, Any], key: str) -> bool:
    """Return whether a Node has a taint with this key, with any value and effect."""
    taints = (document.get("spec") or {}).get("taints") or ()
    return any(taint.get("key") == key for taint in taints)


async def nodes_with_taint(client: KubeClient, key: str) -> frozenset[str]:
    answer = await client.transport.send(Request("GET", path("/api/v1", "nodes"), "listing nodes"))
    return frozenset(
        document["metadata"]["name"]
        for document in answer.get("items") or ()
        if has_taint(document, key)
    )
