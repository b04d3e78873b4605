"""Measuring moves in a lab: the counter image to and fro under a client, figures from both sides.

Blackout, bytes and parts are what the agents measured and the migration's status says; the stall is
what a client on one connection saw; the total is the time from the edit to Succeeded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from statistics import median

from transship.api.base import ObjectMeta
from transship.api.conditions import is_true
from transship.api.container import Container, EnvVar, Probe, TcpSocketAction
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.placement import (
    ContainerPlacement,
    MigrationSettings,
    PlacementSpec,
    Strategy,
)
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.kube.client import KubeClient
from transship.lab.cache import Say
from transship.lab.counter_client import PORT, CounterClient
from transship.lab.state import LabState

NAMESPACE = "default"
START_TIMEOUT_SECONDS = 120.0
MOVE_TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.02
SETTLED_REPLIES = 100
ANSWERS = Probe(tcp_socket=TcpSocketAction(port=PORT), period_seconds=1)


@dataclass(frozen=True)
class Job:
    """What is moved and how often; memory in bytes, dirty in bytes per second."""

    memory: int
    dirty: int
    strategy: Strategy
    runs: int
    parallel: int = 1


@dataclass(frozen=True)
class Run:
    """One move of one container."""

    strategy: str
    memory_bytes: int
    blackout_ms: float
    stall_ms: float
    total_ms: float
    bytes_sent: int
    parts_us: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    runs: tuple[Run, ...]

    def medians(self) -> dict[str, float | str]:
        names = ("memory_bytes", "blackout_ms", "stall_ms", "total_ms", "bytes_sent")
        found: dict[str, float | str] = {
            name: median(getattr(run, name) for run in self.runs) for name in names
        }
        return {"strategy": self.runs[0].strategy, **found}


async def measure(state: LabState, job: Job, *, say: Say) -> Result:
    """Move `job.parallel` containers `job.runs` times each, all at once."""
    if state.kubeconfig is None or state.registry is None:
        raise TransshipError(f"lab {state.name} is not complete", hint="transship lab up")
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await KubeClient.connect(state.kubeconfig))
        bench = _Bench(client, state, job)
        stack.push_async_callback(bench.remove)
        await bench.start()
        say("the containers run; one unmeasured move first")
        with ExitStack() as clients:
            watchers = [clients.enter_context(CounterClient(a)) for a in bench.addresses]
            await bench.move_all(watchers, run=0)
            runs: list[Run] = []
            for number in range(1, job.runs + 1):
                runs += await bench.move_all(watchers, run=number)
                say(f"run {number} of {job.runs}: blackout {runs[-1].blackout_ms:.1f} ms")
        return Result(tuple(runs))


class _Bench:
    """The placements of one measurement."""

    def __init__(self, client: KubeClient, state: LabState, job: Job) -> None:
        self._client, self._state, self._job = client, state, job
        self._names = [f"bench-{number}" for number in range(job.parallel)]
        self.addresses: list[str] = []

    async def start(self) -> None:
        for name in self._names:
            await self._client.create(self._placement(name))
        for name in self._names:
            placement = await self._await_running(name)
            self.addresses.append(placement.status.address or "")

    async def remove(self) -> None:
        for name in self._names:
            await self._client.delete(ContainerPlacement, name=name, namespace=NAMESPACE)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while await self._client.list(ContainerPlacement, namespace=NAMESPACE):
            _check(deadline, "removing the containers")
            await asyncio.sleep(POLL_SECONDS)

    async def move_all(self, watchers: Sequence[CounterClient], *, run: int) -> list[Run]:
        target = self._state.nodes[(run + 1) % 2]
        moves = [
            self._move(name, target, watcher)
            for name, watcher in zip(self._names, watchers, strict=True)
        ]
        return list(await asyncio.gather(*moves))

    async def _move(self, name: str, target: str, watcher: CounterClient) -> Run:
        watcher.reset()
        began = time.monotonic()
        patch = {"spec": {"targetNode": target}}
        await self._client.merge_patch(
            ContainerPlacement, name=name, namespace=NAMESPACE, patch=patch
        )
        migration = await self._await_move(name, target)
        total = time.monotonic() - began
        stall = await self._stall(watcher)
        status = migration.status
        return Run(
            strategy=str(status.strategy),
            memory_bytes=self._job.memory,
            blackout_ms=float(status.blackout_milliseconds or 0),
            stall_ms=stall,
            total_ms=round(total * 1e3, 1),
            bytes_sent=status.bytes or 0,
            parts_us={part.name: part.microseconds for part in status.blackout_parts},
        )

    async def _stall(self, watcher: CounterClient) -> float:
        """Waits until the connection has been busy again for a while."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        first = watcher.seen().replies
        while watcher.seen().replies < first + SETTLED_REPLIES:
            if error := watcher.seen().error:
                raise TransshipError(f"the client's connection broke: {error}")
            _check(deadline, "waiting for replies after the move")
            await asyncio.sleep(POLL_SECONDS)
        return watcher.seen().longest_gap_milliseconds

    async def _await_running(self, name: str) -> ContainerPlacement:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            placement = await self._client.get(ContainerPlacement, name=name, namespace=NAMESPACE)
            if is_true(placement.status.conditions, "Ready"):
                return placement
            _check(deadline, f"starting {name}")
            await asyncio.sleep(POLL_SECONDS)

    async def _await_move(self, name: str, target: str) -> ContainerMigration:
        deadline = time.monotonic() + MOVE_TIMEOUT_SECONDS
        while True:
            for migration in await self._client.list(ContainerMigration, namespace=NAMESPACE):
                spec, status = migration.spec, migration.status
                if spec.placement_name != name or not await self._is_latest(migration, target):
                    continue
                if status.phase is MigrationPhase.SUCCEEDED:
                    return migration
                if status.phase is not None and status.phase.finished:
                    raise TransshipError(
                        f"{migration.metadata.name} {status.phase}: {status.message}"
                    )
            _check(deadline, f"moving {name} to {target}")
            await asyncio.sleep(POLL_SECONDS)

    async def _is_latest(self, migration: ContainerMigration, target: str) -> bool:
        if migration.spec.target_node != target:
            return False
        placement = await self._client.get(
            ContainerPlacement, name=migration.spec.placement_name, namespace=NAMESPACE
        )
        return migration.spec.epoch >= placement.status.epoch - 1

    def _placement(self, name: str) -> ContainerPlacement:
        mebi = 1 << 20
        env = (
            EnvVar(name="MEMORY_MIB", value=str(self._job.memory // mebi)),
            EnvVar(name="DIRTY_MIB_PER_SECOND", value=str(self._job.dirty // mebi)),
        )
        return ContainerPlacement(
            metadata=ObjectMeta(name=name, namespace=NAMESPACE),
            spec=PlacementSpec(
                target_node=self._state.nodes[0],
                container=Container(
                    image=f"{self._state.registry}/counter:1", env=env, readiness_probe=ANSWERS
                ),
                migration=MigrationSettings(strategy=self._job.strategy),
            ),
        )


def _check(deadline: float, doing: str) -> None:
    if time.monotonic() > deadline:
        raise DeadlineExceeded(f"{doing}: not done in time")
