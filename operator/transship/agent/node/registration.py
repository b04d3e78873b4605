"""Tells the cluster that this node exists: its NodeAgent's status and its lease.

Nothing else in the agent waits for this. While the API server is away, containers run on and
migrations go on; the lease runs out, and the operator then asks the agent itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from loguru import logger

from transship.agent.node import health
from transship.agent.node.facts import NodeFacts
from transship.agent.node.health import HealthReadings, Problem
from transship.api.conditions import Condition, Conditions, condition, with_condition
from transship.api.node_agent import NodeAgentStatus
from transship.api.reasons import Reason
from transship.common.clock import Clock
from transship.common.errors import TransshipError
from transship.kube.client import KubeClient
from transship.kube.leases import Leases, agent_lease

RENEW_SECONDS = 10.0  # as the kubelet
LEASE_SECONDS = 40  # as the kubelet: three renewals may get lost
STATUS_SECONDS = 30.0  # free memory and disk; everything else is written when it changes
FIRST_STATUS_SECONDS = 5.0  # the facts take half a second, a self-test that fails up to 15
READY = "Ready"


class Cluster(Protocol):
    """The two writes that an agent makes."""

    async def register(self, status: NodeAgentStatus) -> None: ...

    async def renew(self, *, duration_seconds: int) -> None: ...


@dataclass(frozen=True)
class _Connection:
    client: KubeClient
    leases: Leases


class KubeCluster:
    """registration.Cluster on a real API server."""

    def __init__(self, node: str, *, kubeconfig: Path | None) -> None:
        self._node = node
        self._kubeconfig = kubeconfig
        self._connection: _Connection | None = None

    async def register(self, status: NodeAgentStatus) -> None:
        connection = await self._connect()
        await connection.client.apply_node_agent(name=self._node, status=status)

    async def renew(self, *, duration_seconds: int) -> None:
        connection = await self._connect()
        await connection.leases.renew(
            agent_lease(self._node), holder=self._node, duration_seconds=duration_seconds
        )

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.client.close()

    async def _connect(self) -> _Connection:
        if self._connection is None:
            client = await KubeClient.connect(self._kubeconfig)
            if self._connection is None:  # the other write may have been faster
                self._connection = _Connection(client, Leases(client))
            else:
                await client.close()
        return self._connection


class Registration:
    """Keeps both fresh until it is stopped."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        facts: NodeFacts,
        clock: Clock,
        read_health: Callable[[], HealthReadings] = HealthReadings,
    ) -> None:
        self._cluster = cluster
        self._facts = facts
        self._clock = clock
        self._read_health = read_health
        self._conditions: Conditions = ()
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """A fact has changed: tell it now."""
        self._changed.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._keep_status())

    async def _keep_lease(self) -> None:
        failing = False
        while True:
            try:
                await self._cluster.renew(duration_seconds=LEASE_SECONDS)
                failing = False
            except TransshipError as e:
                failing = _tell(e, what="lease", again=failing)
            await asyncio.sleep(RENEW_SECONDS)

    async def _keep_status(self) -> None:
        """Begins when the facts are known: a restart of the agent alone changes none of them."""
        failing = False
        await self._changed_within(FIRST_STATUS_SECONDS)
        while True:
            self._changed.clear()
            try:
                readings = await asyncio.to_thread(self._read_health)  # it writes to the disk
                await self._cluster.register(self.status(readings))
                failing = False
            except TransshipError as e:
                failing = _tell(e, what="status", again=failing)
            await self._changed_within(RENEW_SECONDS if failing else STATUS_SECONDS)

    async def _changed_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def status(self, readings: HealthReadings) -> NodeAgentStatus:
        facts, now = self._facts, self._clock.now()
        found = health.problems(readings, now=now)
        for each in (
            ready_condition(facts, found, now=now),
            health.healthy_condition(found, now=now),
        ):
            self._conditions = with_condition(self._conditions, each)
        return NodeAgentStatus(
            conditions=self._conditions,
            endpoint=facts.identity.endpoint,
            address=facts.identity.address,
            addresses=facts.addresses,
            boot_id=facts.boot_id,
            versions=facts.versions,
            features=facts.features,
            capacity=facts.capacity(),
            self_test=facts.self_test,
        )


def ready_condition(facts: NodeFacts, found: tuple[Problem, ...], *, now: datetime) -> Condition:
    """A node that is not ready runs its containers, but takes no part in moves."""
    test, bar = facts.self_test, health.migration_blocker(found)
    if not facts.complete:
        return condition(READY, False, reason=Reason.AGENT_STARTING, now=now,
                         message=Reason.AGENT_STARTING.meaning)  # fmt: skip
    if test is not None and not test.passed:
        return condition(READY, False, reason=Reason.SELF_TEST_FAILED, now=now,
                         message=test.message)  # fmt: skip
    if bar is not None:
        return condition(READY, False, reason=bar.reason, now=now, message=bar.message)
    return condition(READY, True, reason=Reason.AGENT_READY, now=now,
                     message=Reason.AGENT_READY.meaning)  # fmt: skip


def _tell(error: TransshipError, *, what: str, again: bool) -> bool:
    """Once per outage; a retry heals it."""
    level = "DEBUG" if again else "WARNING"
    logger.bind(reason=error.reason, cause=error.message).log(level, f"{what} not written")
    return True
