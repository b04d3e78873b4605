"""One operator leads, and it sends nothing once it may have lost its lease."""

from __future__ import annotations

from typing import Any

import pytest
from loguru import logger

from fakes.api_server import FakeApiServer, holder
from fakes.clock import FakeClock
from fakes.resources import placement
from transship.api.placement import ContainerPlacement
from transship.common.errors import (
    Conflict,
    NotFound,
    Refused,
    TransshipError,
    Unreachable,
)
from transship.controller.leader import GIVE_UP_SECONDS, LEASE_NAME, Leadership, LeadersTransport
from transship.kube.client import KubeClient
from transship.kube.leases import Leases
from transship.kube.transport import Request


class Lease:
    def __init__(self) -> None:
        self.held_by_another = False
        self.renewals = 0

    async def renew(self, name: str, *, holder: str, duration_seconds: int) -> object:
        if self.held_by_another:
            raise Refused("held", reason="LeaseHeld")
        self.renewals += 1
        return None

    async def release(self, name: str, *, holder: str) -> bool:
        return False


class TestLeadership:
    async def test_it_waits_for_the_lease_and_ends_when_it_is_lost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, lease = FakeClock(), Lease()

        async def sleep(seconds: float) -> None:
            clock.pass_time(seconds)
            lease.held_by_another = not lease.held_by_another if clock.seconds < 3 else True

        monkeypatch.setattr("transship.controller.leader.asyncio.sleep", sleep)
        lease.held_by_another = True
        leadership = Leadership(lease, clock=clock, identity="me")
        await leadership.acquire()
        assert lease.renewals == 1
        with pytest.raises(Refused, match="held"):
            await leadership.keep()
        assert clock.seconds < 15
        with pytest.raises(Refused, check=lambda e: e.reason == "NotLeading"):
            leadership.require()

    @pytest.mark.parametrize(
        ("failing", "level", "word"),
        [
            (None, "INFO", "operator-1 holds it"),
            (Unreachable("connection refused"), "WARNING", "connection refused"),
            (Refused("leases is forbidden", reason="Forbidden"), "ERROR", "leases is forbidden"),
            (NotFound("no namespace transship-system"), "ERROR", "no namespace"),
        ],
    )
    async def test_the_log_says_once_why_the_lease_is_not_ours(
        self,
        failing: TransshipError | None,
        level: str,
        word: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        lines: list[str] = []
        clock, server = FakeClock(), FakeApiServer()
        leases = Leases(KubeClient(server), clock=clock)
        await leases.renew(LEASE_NAME, holder="operator-1", duration_seconds=15)
        server.failing = failing

        async def sleep(seconds: float) -> None:
            clock.pass_time(seconds)
            if clock.seconds > 8:
                server.failing = None
                clock.pass_time(15)

        monkeypatch.setattr("transship.controller.leader.asyncio.sleep", sleep)
        sink = logger.add(
            lambda line: lines.append(str(line)), format="{level} {message} {extra}", level="INFO"
        )
        await Leadership(leases, clock=clock, identity="me").acquire()
        logger.remove(sink)
        told = [line for line in lines if "the lease is not ours" in line]
        assert told[0].startswith(level)
        assert word in told[0]
        assert len([line for line in told if word in line]) == 1

    async def test_a_late_renewal_of_its_own_does_not_prevent_the_release(self) -> None:
        class Changing(FakeApiServer):
            changed = False

            async def send(self, request: Request) -> dict[str, Any]:
                if request.method == "PUT" and not self.changed:
                    self.changed = True
                    raise Conflict("the object has been modified")
                return await super().send(request)

        clock, server = FakeClock(), Changing()
        leases = Leases(KubeClient(server), clock=clock)
        leadership = Leadership(leases, clock=clock, identity="me")
        await leadership.acquire()
        await leadership.release()
        assert server.changed
        assert await holder(leases, LEASE_NAME) == ""

    async def test_who_was_stopped_for_longer_than_its_lease_sends_nothing_when_it_wakes_up(
        self,
    ) -> None:
        clock, server = FakeClock(), FakeApiServer()
        leadership = Leadership(Lease(), clock=clock, identity="me")
        cluster = KubeClient(LeadersTransport(server, leadership))
        with pytest.raises(Refused):
            await cluster.create(placement())
        await leadership.acquire()
        await cluster.create(placement())
        clock.pass_time(GIVE_UP_SECONDS)  # SIGSTOP, or a suspended machine: no task has run
        with pytest.raises(Refused):
            await cluster.create(placement("another"))
        assert len(server.objects) == 1
        await cluster.get(ContainerPlacement, name="web", namespace="default")
