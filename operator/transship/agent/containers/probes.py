"""Startup, liveness and readiness probes, with the meaning that they have for a Pod.

The node probes: exec inside the container, TCP and HTTP at the container's address. The other two
probes wait until the startup probe has succeeded. A Prober only reports a failed liveness or
startup probe; the supervisor restarts the container.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import aiohttp

from transship.agentapi.containers import ProbeState
from transship.api.container import Container, HttpGetAction, Probe, TcpSocketAction

MAX_ANSWER_CHARACTERS = 256
# starting a command in the container does not count towards the probe's timeout
EXEC_GRACE_SECONDS = 1.0


@dataclass(frozen=True)
class Health:
    """The combined result of the probes."""

    started: bool = False
    ready: bool = False
    failed: bool = False  # liveness or startup: the container has to be restarted
    message: str = ""

    @classmethod
    def from_state(cls, probes: ProbeState) -> Health:
        return cls(started=probes.started, ready=probes.ready, message=probes.message)

    @property
    def state(self) -> ProbeState:
        """The part that the record and a migration keep. A failed probe has to fail again."""
        message = "" if self.failed else self.message
        return ProbeState(started=self.started, ready=self.ready, message=message)


@dataclass(frozen=True)
class Outcome:
    """The result of one try of a probe."""

    succeeded: bool
    answer: str = ""


class Executor(Protocol):
    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        """Run a command inside the container."""
        ...


class Prober:
    """The probes of one instance, from now on.

    known: the results under an earlier agent or on another node; they stand until a probe has
    another one. ran_seconds: how long the instance has run; counts towards initial delays.
    """

    def __init__(
        self,
        container: Container,
        *,
        address: str | None,
        executor: Executor,
        known: ProbeState,
        ran_seconds: float,
        changed: Callable[[], None],
    ) -> None:
        self._container = container
        self._address = address
        self._executor = executor
        self._changed = changed
        self._ran_seconds = max(0.0, ran_seconds)
        self.health = Health.from_state(known)
        self._tries: set[asyncio.Task[Outcome]] = set()
        self._tasks = [
            asyncio.create_task(self._repeat(probe, evaluate))
            for probe, evaluate in (
                (container.startup_probe, self._evaluate_startup),
                (container.liveness_probe, self._evaluate_liveness),
                (container.readiness_probe, self._evaluate_readiness),
            )
            if probe is not None
        ]
        self._started = asyncio.Event()
        if self.health.started:
            self._started.set()

    def stop(self) -> None:
        """Start no more tries. A command that runs in the container is not interrupted."""
        for task in self._tasks:
            task.cancel()

    async def stop_and_wait(self) -> None:
        """Stop, and wait for running commands: no longer than the probe's timeout."""
        self.stop()
        if self._tries:
            await asyncio.wait(self._tries)

    async def _repeat(
        self, probe: Probe, evaluate: Callable[[Streak, Outcome, Probe], None]
    ) -> None:
        if probe is not self._container.startup_probe:
            await self._started.wait()
        await asyncio.sleep(max(0.0, probe.initial_delay_seconds - self._ran_seconds))
        streak = Streak()
        while not (probe is self._container.startup_probe and self.health.started):
            attempt = asyncio.create_task(self._try(probe))
            self._tries.add(attempt)
            attempt.add_done_callback(self._tries.discard)
            outcome = await asyncio.shield(attempt)
            streak = streak.after(outcome)
            before = self.health
            evaluate(streak, outcome, probe)
            if self.health != before:
                self._changed()
            await asyncio.sleep(probe.period_seconds)

    def _evaluate_startup(self, streak: Streak, outcome: Outcome, probe: Probe) -> None:
        if streak.successes >= 1:
            self.health = replace(self.health, started=True, message="")
            self._started.set()
        elif streak.failures >= probe.failure_threshold:
            message = f"startup probe failed: {outcome.answer}"
            self.health = replace(self.health, failed=True, message=message)

    def _evaluate_liveness(self, streak: Streak, outcome: Outcome, probe: Probe) -> None:
        if streak.failures >= probe.failure_threshold:
            message = f"liveness probe failed: {outcome.answer}"
            self.health = replace(self.health, failed=True, message=message)

    def _evaluate_readiness(self, streak: Streak, outcome: Outcome, probe: Probe) -> None:
        if streak.successes >= probe.success_threshold:
            self.health = replace(self.health, ready=True, message="")
        elif streak.failures >= probe.failure_threshold:
            message = f"readiness probe failed: {outcome.answer}"
            self.health = replace(self.health, ready=False, message=message)

    async def _try(self, probe: Probe) -> Outcome:
        """Try once. Every error is a failure of the probe."""
        limit = float(probe.timeout_seconds)
        try:
            async with asyncio.timeout(limit + EXEC_GRACE_SECONDS):
                return await self._send(probe, limit)
        except TimeoutError:
            return Outcome(succeeded=False, answer=f"no answer in {probe.timeout_seconds} s")
        except Exception as e:  # an error that ended the task would end the probing
            return Outcome(succeeded=False, answer=str(e)[:MAX_ANSWER_CHARACTERS])

    async def _send(self, probe: Probe, limit: float) -> Outcome:
        if probe.exec is not None:
            return await self._executor.execute(probe.exec.command, timeout_seconds=limit)
        if self._address is None:
            return Outcome(succeeded=False, answer="the container has no address")
        async with asyncio.timeout(limit):
            if probe.tcp_socket is not None:
                return await _connect(self._address, probe.tcp_socket)
            if probe.http_get is not None:
                return await _get(self._address, probe.http_get)
        return Outcome(succeeded=True)  # a probe without an action


@dataclass(frozen=True)
class Streak:
    """How often in a row a probe has succeeded or failed."""

    successes: int = 0
    failures: int = 0

    def after(self, outcome: Outcome) -> Streak:
        if outcome.succeeded:
            return Streak(successes=self.successes + 1)
        return Streak(failures=self.failures + 1)


async def _connect(address: str, action: TcpSocketAction) -> Outcome:
    _, writer = await asyncio.open_connection(address, action.port)
    writer.close()
    return Outcome(succeeded=True)


async def _get(address: str, action: HttpGetAction) -> Outcome:
    """2xx and 3xx are success. Redirects are not followed: they may lead out of the container."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{action.port}{action.path}"
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as reply:
        if 200 <= reply.status < 400:
            return Outcome(succeeded=True)
        text = (await reply.content.read(MAX_ANSWER_CHARACTERS)).decode(errors="replace")
        return Outcome(succeeded=False, answer=f"HTTP {reply.status}: {text}")
