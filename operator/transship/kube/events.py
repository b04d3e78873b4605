"""Events (events.k8s.io/v1): they tell people what happened to a resource. Nothing reads them.

The same event about the same object within SERIES_WINDOW is recorded once, with a count.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from loguru import logger

from transship.api import API_VERSION
from transship.api.base import Resource
from transship.api.kinds import kind_of
from transship.common.clock import Clock, SystemClock
from transship.common.errors import NotFound, TransshipError
from transship.kube.client import KubeClient
from transship.kube.leases import micro_time
from transship.kube.paths import path
from transship.kube.transport import ContentType, Request

ROOT = "/apis/events.k8s.io/v1"
# the API server keeps events for an hour
SERIES_WINDOW = timedelta(minutes=10)
# the API's limit
NOTE_LIMIT = 1024
REMEMBERED_EVENTS = 2048


class EventType(StrEnum):
    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class _Recorded:
    name: str
    count: int
    last: datetime


class EventRecorder:
    """Records the events of one program. component: transship-operator or transship-agent."""

    def __init__(
        self,
        client: KubeClient,
        *,
        component: str,
        instance: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._transport = client.transport
        self._reporter = {
            "reportingController": f"transship.dev/{component}",
            "reportingInstance": (instance or f"{component}-{socket.gethostname()}")[:128],
        }
        self._clock = clock or SystemClock()
        self._recorded: dict[tuple[str, ...], _Recorded] = {}

    async def record(
        self,
        regarding: Resource,
        *,
        type: EventType,
        reason: str,
        note: str,
        action: str,
    ) -> None:
        """Record an event. A failure is only logged: nothing depends on an event."""
        key = (regarding.metadata.uid or regarding.metadata.name, type, reason, action, note)
        try:
            await self._record(key, regarding, type=type, reason=reason, note=note, action=action)
        except TransshipError as e:
            logger.bind(object=regarding.metadata.name, reason=reason).warning(
                "Event was not recorded: {}", e
            )

    async def _record(
        self,
        key: tuple[str, ...],
        regarding: Resource,
        *,
        type: EventType,
        reason: str,
        note: str,
        action: str,
    ) -> None:
        now = self._clock.now()
        namespace = regarding.metadata.namespace or "default"
        earlier = self._recorded.get(key)
        if earlier is not None and now - earlier.last < SERIES_WINDOW:
            counted = replace(earlier, count=earlier.count + 1, last=now)
            if await self._count(namespace, counted):
                self._remember(key, counted)
                return
        body = {
            **_event(regarding, namespace=namespace, now=now),
            **self._reporter,
            "type": type.value,
            "reason": reason,
            "action": action,
            "note": note[:NOTE_LIMIT],
        }
        request = Request(
            "POST", path(ROOT, "events", namespace=namespace), "recording an event", body=body
        )
        await self._transport.send(request)
        self._remember(key, _Recorded(body["metadata"]["name"], 1, now))

    async def _count(self, namespace: str, event: _Recorded) -> bool:
        """Increase the count of an event. False if the API server no longer has it."""
        series = {"count": event.count, "lastObservedTime": micro_time(event.last)}
        request = Request(
            "PATCH",
            path(ROOT, "events", namespace=namespace, name=event.name),
            "counting an event",
            body={"series": series},
            content_type=ContentType.MERGE_PATCH,
        )
        try:
            await self._transport.send(request)
        except NotFound:
            return False
        return True

    def _remember(self, key: tuple[str, ...], event: _Recorded) -> None:
        self._recorded.pop(key, None)
        self._recorded[key] = event
        while len(self._recorded) > REMEMBERED_EVENTS:
            del self._recorded[next(iter(self._recorded))]


def _event(regarding: Resource, *, namespace: str, now: datetime) -> dict[str, Any]:
    meta = regarding.metadata
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # nanoseconds in hex, as client-go names events
        "metadata": {
            "name": f"{meta.name[:230]}.{int(now.timestamp() * 1e9):x}",
            "namespace": namespace,
        },
        "eventTime": micro_time(now),
        "regarding": _reference(regarding),
    }


def _reference(regarding: Resource) -> Mapping[str, str]:
    meta = regarding.metadata
    reference = {
        "apiVersion": API_VERSION,
        "kind": kind_of(type(regarding)).name,
        "namespace": meta.namespace or "",
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }
    return {key: value for key, value in reference.items() if value}
