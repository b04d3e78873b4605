"""Leases: one holder at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from fakes.api_server import FakeApiServer
from transship.common.errors import NotFound, Refused
from transship.kube.client import KubeClient
from transship.kube.leases import Leases, agent_lease


@dataclass
class HandClock:
    """A clock that stands still until it is set."""

    time: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def leases(clock: HandClock) -> Leases:
    return Leases(KubeClient(FakeApiServer()), clock=clock)


async def test_a_lease_is_made_when_missing(leases: Leases, clock: HandClock) -> None:
    with pytest.raises(NotFound):
        await leases.get("leader")
    lease = await leases.renew("leader", holder="a", duration_seconds=15)
    assert lease == await leases.get("leader")
    assert (lease.holder, lease.renew_time, lease.duration_seconds) == ("a", clock.now(), 15)


async def test_its_holder_renews_it(leases: Leases, clock: HandClock) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(10)
    lease = await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(10)
    assert not lease.expired(clock.now())


async def test_nobody_else_gets_it_before_it_expires(leases: Leases, clock: HandClock) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(15)
    with pytest.raises(Refused) as refusal:
        await leases.renew("leader", holder="b", duration_seconds=15)
    assert refusal.value.reason == "LeaseHeld"


async def test_an_expired_one_is_taken_over(leases: Leases, clock: HandClock) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(15.1)
    assert (await leases.get("leader")).expired(clock.now())
    assert (await leases.renew("leader", holder="b", duration_seconds=15)).holder == "b"


async def test_all_are_listed(leases: Leases) -> None:
    for node in ("node-a", "node-b"):
        await leases.renew(agent_lease(node), holder=node, duration_seconds=15)
    assert [lease.name for lease in await leases.list()] == ["agent-node-a", "agent-node-b"]
