"""Registers the node in the cluster: keeps its NodeAgent's status and its lease fresh.

Nothing else in the agent waits for this. While the API server is down, containers and migrations go
on. The lease expires, and the operator then asks the agent itself.
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

# the kubelet's numbers: three renewals may get lost
RENEW_SECONDS = 10.0
LEASE_SECONDS = 40
# for free memory and disk; every other change is written at once
STATUS_SECONDS = 30.0
# gathering the facts takes half a second, a self-test that fails up to 15
FIRST_STATUS_SECONDS = 5.0
READY = "Ready"


class Cluster(Protocol):
    """The agent's two writes to the Kubernetes API. Each raises TransshipError."""

    async def register(self, status: NodeAgentStatus) -> None: ...

    async def renew(self, *, duration_seconds: int) -> None: ...


@dataclass(frozen=True)
class _Connection:
    client: KubeClient
    leases: Leases


class KubeCluster:
    """Implements Cluster with a real API server.

    It connects at the first write. Loading the client library takes a second, and nothing that the
    agent does for containers may wait for that.
    """

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
            if self._connection is None:  # the other write may have connected meanwhile
                self._connection = _Connection(client, Leases(client))
            else:
                await client.close()
        return self._connection


class Registration:
    """Keeps status and lease fresh until it is cancelled."""

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
        """Write the status now, since a fact has changed."""
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
                failing = _log_failure(e, write="lease", again=failing)
            await asyncio.sleep(RENEW_SECONDS)

    async def _keep_status(self) -> None:
        """Begin once the facts are complete, so that a restarted agent does not write fewer."""
        failing = False
        await self._changed_within(FIRST_STATUS_SECONDS)
        while True:
            self._changed.clear()
            try:
                readings = await asyncio.to_thread(self._read_health)  # blocks
                await self._cluster.register(self.status(readings))
                failing = False
            except TransshipError as e:
                failing = _log_failure(e, write="status", again=failing)
            await self._changed_within(RENEW_SECONDS if failing else STATUS_SECONDS)

    async def _changed_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def status(self, readings: HealthReadings) -> NodeAgentStatus:
        facts, now = self._facts, self._clock.now()
        problems = health.problems_of(readings, now=now)
        for new in (
            ready_condition(facts, problems, now=now),
            health.healthy_condition(problems, now=now),
        ):
            self._conditions = with_condition(self._conditions, new)
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


def ready_condition(facts: NodeFacts, problems: tuple[Problem, ...], *, now: datetime) -> Condition:
    """The condition Ready. A node that is not ready runs containers but takes part in no move."""
    test, blocker = facts.self_test, health.migration_blocker(problems)
    if not facts.complete:
        return _ready(False, Reason.AGENT_STARTING, now=now)
    if test is not None and not test.passed:
        return _ready(False, Reason.SELF_TEST_FAILED, test.message, now=now)
    if blocker is not None:
        return _ready(False, blocker.reason, blocker.message, now=now)
    return _ready(True, Reason.AGENT_READY, now=now)


def _ready(ready: bool, reason: Reason, message: str = "", *, now: datetime) -> Condition:
    return condition(READY, ready, reason=reason, now=now, message=message or reason.meaning)


def _log_failure(error: TransshipError, *, write: str, again: bool) -> bool:
    """One warning per outage: a retry heals it. Returns that the write is failing."""
    level = "DEBUG" if again else "WARNING"
    logger.bind(reason=error.reason, cause=error.message).log(level, f"writing the {write} failed")
    return True
