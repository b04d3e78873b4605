"""Measures moves of the counter image between two nodes of a lab, under a client.

Blackout, its parts and bytes are the agents' measurements, from the migration's status. The stall
is the client's longest wait for a reply. The total is the time from the edit to Succeeded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from statistics import median

from transship.api.base import ObjectMeta
from transship.api.conditions import is_true
from transship.api.container import Container, EnvVar, Probe, TcpSocketAction
from transship.api.migration import ContainerMigration, MigrationPhase, Round
from transship.api.placement import (
    ContainerPlacement,
    MigrationSettings,
    PlacementSpec,
    Strategy,
)
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.kube.client import KubeClient
from transship.lab.cache import Say
from transship.lab.proof.counter_client import PORT, CounterClient
from transship.lab.state import LabState

NAMESPACE = "default"
START_TIMEOUT_SECONDS = 120.0
MOVE_TIMEOUT_SECONDS = 600.0
POLL_SECONDS = 0.02
SETTLED_REPLIES = 100
FIGURES = (
    "memory_bytes",
    "blackout_ms",
    "stall_ms",
    "total_ms",
    "bytes_sent",
    "criu_ms",
    "copy_mb_per_second",
)
CRIU_PARTS = ("CriuDump", "TargetRestore")
ANSWERS = Probe(tcp_socket=TcpSocketAction(port=PORT), period_seconds=1)


@dataclass(frozen=True)
class Job:
    """What to move and how often. `memory` is in bytes, `dirty` in bytes per second."""

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
    criu_ms: float = 0.0
    """The part of the blackout in which CRIU dumps and restores."""
    copy_mb_per_second: float = 0.0
    """Rate of the first pre-copy round, in 10^6 bytes per second; 0 without pre-copy."""
    rest_us: int = 0
    """The time of the blackout that no part accounts for."""
    parts_us: dict[str, int] = field(default_factory=dict)
    """The parts of the blackout. They follow each other, except for nested ones."""


@dataclass(frozen=True)
class Result:
    runs: tuple[Run, ...]

    def medians(self) -> dict[str, float | str]:
        figures: dict[str, float | str] = {
            name: median(getattr(run, name) for run in self.runs) for name in FIGURES
        }
        return {"strategy": self.runs[0].strategy, **figures}

    def median_parts(self) -> dict[str, float]:
        """The median of each part in microseconds, with 0 for a move without it."""
        names = dict.fromkeys(name for run in self.runs for name in run.parts_us)
        return {name: median(run.parts_us.get(name, 0) for run in self.runs) for name in names}


def is_nested(part: str) -> bool:
    """Whether the part is within another one (all of the target's and CRIU's) or parallel."""
    return part.startswith(("Target", "Criu")) or part == "SendMemory"


def run_of(migration: ContainerMigration, *, memory: int, stall_ms: float, total_ms: float) -> Run:
    status = migration.status
    parts = {part.name: part.microseconds for part in status.blackout_parts}
    blackout_ms = status.blackout_milliseconds or 0
    accounted = sum(size for name, size in parts.items() if not is_nested(name))
    return Run(
        strategy=str(status.strategy),
        memory_bytes=memory,
        blackout_ms=float(blackout_ms),
        stall_ms=stall_ms,
        total_ms=total_ms,
        bytes_sent=status.bytes or 0,
        criu_ms=sum(parts.get(name, 0) for name in CRIU_PARTS) / 1e3,
        copy_mb_per_second=_first_round_rate(status.rounds),
        rest_us=blackout_ms * 1000 - accounted,
        parts_us=parts,
    )


def _first_round_rate(rounds: Sequence[Round]) -> float:
    return round(rounds[0].bytes / max(rounds[0].milliseconds, 1) / 1e3, 1) if rounds else 0.0


async def measure(state: LabState, job: Job, *, say: Say) -> Result:
    """Move `job.parallel` containers at once, `job.runs` times each."""
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


@dataclass(frozen=True)
class _FinishedMove:
    migration: ContainerMigration
    at: float


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
        """Move all containers at once, and measure each one."""
        target = self._state.nodes[(run + 1) % 2]
        known = {migration.metadata.name for migration in await self._migrations()}
        for watcher in watchers:
            watcher.reset()
        began = time.monotonic()
        await asyncio.gather(*(self._edit(name, target) for name in self._names))
        moved = await self._await_moves(known=known)
        stalls = await asyncio.gather(*(self._stall(watcher) for watcher in watchers))
        return [
            run_of(
                moved[name].migration,
                memory=self._job.memory,
                stall_ms=stall,
                total_ms=round((moved[name].at - began) * 1e3, 1),
            )
            for name, stall in zip(self._names, stalls, strict=True)
        ]

    async def _edit(self, name: str, target: str) -> None:
        patch = {"spec": {"targetNode": target}}
        await self._client.merge_patch(
            ContainerPlacement, name=name, namespace=NAMESPACE, patch=patch
        )

    async def _stall(self, watcher: CounterClient) -> float:
        """The longest wait for a reply, once the connection is busy again."""
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        first = watcher.measurement().replies
        while watcher.measurement().replies < first + SETTLED_REPLIES:
            if error := watcher.measurement().error:
                raise TransshipError(f"the client's connection broke: {error}")
            _check(deadline, "waiting for replies after the move")
            await asyncio.sleep(POLL_SECONDS)
        return watcher.measurement().longest_gap_milliseconds

    async def _await_running(self, name: str) -> ContainerPlacement:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            placement = await self._client.get(ContainerPlacement, name=name, namespace=NAMESPACE)
            if is_true(placement.status.conditions, "Ready"):
                return placement
            _check(deadline, f"starting {name}")
            await asyncio.sleep(POLL_SECONDS)

    async def _migrations(self) -> Sequence[ContainerMigration]:
        return await self._client.list(ContainerMigration, namespace=NAMESPACE)

    async def _await_moves(self, *, known: Collection[str]) -> dict[str, _FinishedMove]:
        """Wait for all moves. One request lists all of them, to save processor time."""
        deadline = time.monotonic() + MOVE_TIMEOUT_SECONDS
        moved: dict[str, _FinishedMove] = {}
        while len(moved) < len(self._names):
            for migration in await self._migrations():
                name, phase = migration.spec.placement_name, migration.status.phase
                if migration.metadata.name in known or name in moved or phase is None:
                    continue
                if phase is MigrationPhase.SUCCEEDED:
                    moved[name] = _FinishedMove(migration, time.monotonic())
                elif phase.finished:
                    raise TransshipError(
                        f"{migration.metadata.name} {phase}: {migration.status.message}"
                    )
            _check(deadline, "moving the containers")
            await asyncio.sleep(POLL_SECONDS)
        return moved

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
