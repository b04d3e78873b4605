from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

from fakes.clock import FakeClock
from transship.agent.node.facts import Identity, NodeFacts
from transship.agent.node.health import HealthReadings
from transship.agent.node.registration import LEASE_SECONDS, Registration
from transship.api.conditions import Status, find
from transship.api.node_agent import NodeAgentStatus, SelfTest
from transship.common.errors import Unreachable


class FakeCluster:
    def __init__(self) -> None:
        self.away = False
        self.statuses: list[NodeAgentStatus] = []
        self.leases: list[int] = []
        self.asked = asyncio.Event()

    async def register(self, status: NodeAgentStatus) -> None:
        self.asked.set()
        if self.away:
            raise Unreachable("no answer")
        self.statuses.append(status)

    async def renew(self, *, duration_seconds: int) -> None:
        if self.away:
            raise Unreachable("no answer")
        self.leases.append(duration_seconds)


def facts(folder: Path) -> NodeFacts:
    identity = Identity("node-a", "10.200.0.11", 7443)
    return NodeFacts(
        identity, addresses=lambda: ("10.0.0.1",), state_dir=folder, containers=lambda: 2
    )


async def test_the_status_is_written_at_once_and_again_when_a_fact_changes(tmp_path: Path) -> None:
    cluster, known = FakeCluster(), facts(tmp_path)
    registration = Registration(cluster, facts=known, clock=FakeClock())
    running = asyncio.create_task(registration.run())
    registration.changed()
    await asyncio.sleep(0.01)
    assert cluster.leases == [LEASE_SECONDS]
    first = cluster.statuses[0]
    assert first.endpoint == "https://10.200.0.11:7443"
    assert first.capacity.containers == 2

    known.self_test = SelfTest(passed=True, time=FakeClock().now())
    known.complete = True
    registration.changed()
    await asyncio.sleep(0.01)
    ready = [find(status.conditions, "Ready") for status in cluster.statuses]
    assert [condition.status for condition in ready if condition is not None] == [
        Status.FALSE,
        Status.TRUE,
    ]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_registration_goes_on_while_the_api_server_is_away(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.away = True
    registration = Registration(cluster, facts=facts(tmp_path), clock=FakeClock())
    running = asyncio.create_task(registration.run())
    registration.changed()
    await cluster.asked.wait()
    await asyncio.sleep(0.01)
    assert not running.done()

    cluster.away = False
    registration.changed()
    await asyncio.sleep(0.01)
    assert len(cluster.statuses) == 1
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_the_condition_says_why_the_self_test_failed(tmp_path: Path) -> None:
    known = facts(tmp_path)
    known.self_test = SelfTest(passed=False, time=FakeClock().now(), message="no uffd")
    known.complete = True
    status = Registration(FakeCluster(), facts=known, clock=FakeClock()).status(HealthReadings())
    ready = find(status.conditions, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == (
        Status.FALSE,
        "SelfTestFailed",
        "no uffd",
    )
