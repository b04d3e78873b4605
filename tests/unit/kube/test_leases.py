"""Leases: one holder at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fakes.api_server import FakeApiServer, holder
from transship.common.errors import Conflict, Refused
from transship.kube.client import KubeClient
from transship.kube.leases import Leases, agent_lease, micro_time
from transship.kube.transport import Request


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
    assert await leases.list() == ()
    lease = await leases.renew("leader", holder="a", duration_seconds=15)
    assert await leases.list() == (lease,)
    assert (lease.holder, lease.renewed, lease.duration_seconds) == (
        "a",
        micro_time(clock.now()),
        15,
    )


async def test_its_holder_renews_it(leases: Leases, clock: HandClock) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(10)
    lease = await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(10)
    assert not (await leases.list())[0].expired
    assert lease.holder == "a"


async def test_nobody_else_gets_it_before_it_expires(leases: Leases, clock: HandClock) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(15)
    with pytest.raises(Refused) as refusal:
        await leases.renew("leader", holder="b", duration_seconds=15)
    assert refusal.value.reason == "LeaseHeld"


async def test_an_expired_one_is_taken_over(leases: Leases, clock: HandClock) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    clock.advance(15.1)
    assert (await leases.list())[0].expired
    assert (await leases.renew("leader", holder="b", duration_seconds=15)).holder == "b"


async def test_one_that_is_released_is_taken_over_at_once(leases: Leases) -> None:
    await leases.renew("leader", holder="a", duration_seconds=15)
    assert await leases.release("leader", holder="a")
    assert await holder(leases, "leader") == ""
    assert (await leases.renew("leader", holder="b", duration_seconds=15)).holder == "b"


async def test_nobody_releases_the_lease_of_another(leases: Leases) -> None:
    assert not await leases.release("leader", holder="a")
    await leases.renew("leader", holder="a", duration_seconds=15)
    assert not await leases.release("leader", holder="b")
    assert await holder(leases, "leader") == "a"


async def test_a_lease_that_changes_while_it_is_released_stays_as_it_is(clock: HandClock) -> None:
    class Racing(FakeApiServer):
        """Somebody writes between the reading and the writing of a release."""

        async def send(self, request: Request) -> dict[str, Any]:
            if request.doing.startswith("releasing"):
                path = request.path
                self._store(path, self._get(path), uid="uid")
            return await super().send(request)

    leases = Leases(KubeClient(Racing()), clock=clock)
    await leases.renew("leader", holder="a", duration_seconds=15)
    with pytest.raises(Conflict):
        await leases.release("leader", holder="a")
    assert await holder(leases, "leader") == "a"


@pytest.mark.parametrize("minutes_ahead", [-10, 10])
async def test_clocks_that_disagree_neither_shorten_nor_lengthen_a_lease(
    minutes_ahead: int, clock: HandClock
) -> None:
    server = FakeApiServer()
    other_clock = HandClock(clock.time + timedelta(minutes=minutes_ahead))
    ours = Leases(KubeClient(server), clock=clock)
    theirs = Leases(KubeClient(server), clock=other_clock)
    await ours.renew("leader", holder="a", duration_seconds=15)
    for _ in range(10):  # a renews, b asks: for longer than the lease lasts
        with pytest.raises(Refused):
            await theirs.renew("leader", holder="b", duration_seconds=15)
        clock.advance(3)
        other_clock.advance(3)
        await ours.renew("leader", holder="a", duration_seconds=15)
    with pytest.raises(Refused):
        await theirs.renew("leader", holder="b", duration_seconds=15)
    other_clock.advance(15.1)
    assert (await theirs.renew("leader", holder="b", duration_seconds=15)).holder == "b"


async def test_a_lease_is_watched_for_its_whole_time_before_it_is_taken_over(
    clock: HandClock,
) -> None:
    server = FakeApiServer()
    await Leases(KubeClient(server), clock=clock).renew("leader", holder="a", duration_seconds=15)
    clock.advance(3600)
    newcomer = Leases(KubeClient(server), clock=clock)
    with pytest.raises(Refused):
        await newcomer.renew("leader", holder="b", duration_seconds=15)
    clock.advance(15.1)
    assert (await newcomer.renew("leader", holder="b", duration_seconds=15)).holder == "b"


async def test_all_are_listed(leases: Leases) -> None:
    for node in ("node-a", "node-b"):
        await leases.renew(agent_lease(node), holder=node, duration_seconds=15)
    assert [lease.name for lease in await leases.list()] == ["agent-node-a", "agent-node-b"]
