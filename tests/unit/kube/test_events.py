"""Events are recorded once and then counted. A failure to record one is only logged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fakes.api_server import FakeApiServer
from transship.api.address_pool import AddressPool, AddressPoolSpec
from transship.api.base import ObjectMeta
from transship.api.container import Container
from transship.api.placement import ContainerPlacement, PlacementSpec
from transship.common.errors import Unreachable
from transship.kube.client import KubeClient
from transship.kube.events import SERIES_WINDOW, EventRecorder, EventType

WEB = ContainerPlacement(
    metadata=ObjectMeta(name="web", namespace="shop", uid="u1"),
    spec=PlacementSpec(container=Container(image="web:1")),
)
POOL = AddressPool(metadata=ObjectMeta(name="p"), spec=AddressPoolSpec(cidr="192.0.2.0/24"))


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self.time += timedelta(microseconds=1)
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


@pytest.fixture
def server() -> FakeApiServer:
    return FakeApiServer()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def recorder(server: FakeApiServer, clock: HandClock) -> EventRecorder:
    return EventRecorder(KubeClient(server), component="transship-operator", clock=clock)


async def tell(recorder: EventRecorder, note: str = "on node-a", about: Any = WEB) -> None:
    await recorder.record(about, type=EventType.NORMAL, reason="Placed", note=note, action="Place")


async def test_an_event_says_what_happened_to_what(
    recorder: EventRecorder, server: FakeApiServer
) -> None:
    await tell(recorder)
    (event,) = server.objects.values()
    assert event["regarding"] == {
        "apiVersion": "transship.dev/v1alpha1",
        "kind": "ContainerPlacement",
        "namespace": "shop",
        "name": "web",
        "uid": "u1",
    }
    assert (event["type"], event["reason"], event["note"]) == ("Normal", "Placed", "on node-a")
    assert event["reportingController"] == "transship.dev/transship-operator"
    assert "series" not in event


async def test_the_same_event_is_counted(recorder: EventRecorder, server: FakeApiServer) -> None:
    for _ in range(3):
        await tell(recorder)
    (event,) = server.objects.values()
    assert event["series"]["count"] == 3


async def test_other_words_are_another_event(
    recorder: EventRecorder, server: FakeApiServer
) -> None:
    await tell(recorder)
    await tell(recorder, "on node-b")
    assert len(server.objects) == 2


async def test_after_a_while_it_is_told_anew(
    recorder: EventRecorder, server: FakeApiServer, clock: HandClock
) -> None:
    await tell(recorder)
    clock.time += SERIES_WINDOW
    await tell(recorder)
    assert len(server.objects) == 2


async def test_an_event_that_the_server_forgot_is_told_anew(
    recorder: EventRecorder, server: FakeApiServer
) -> None:
    await tell(recorder)
    server.objects.clear()
    await tell(recorder)
    assert len(server.objects) == 1


async def test_events_of_cluster_wide_objects_are_in_the_default_namespace(
    recorder: EventRecorder, server: FakeApiServer
) -> None:
    await tell(recorder, about=POOL)
    (event,) = server.objects.values()
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["regarding"]


async def test_a_long_note_is_cut(recorder: EventRecorder, server: FakeApiServer) -> None:
    await tell(recorder, "x" * 5000)
    (event,) = server.objects.values()
    assert len(event["note"]) == 1024


async def test_a_server_that_is_away_disturbs_nobody(
    recorder: EventRecorder, server: FakeApiServer
) -> None:
    server.failing = Unreachable("away")
    await tell(recorder)
    server.failing = None
    await tell(recorder)
    assert len(server.objects) == 1
