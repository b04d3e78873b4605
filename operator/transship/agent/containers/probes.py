"""Startup, liveness and readiness probes, with a Pod's meaning.

The node asks: exec inside the container, TCP and HTTP at its address. While a startup probe has not
succeeded the two others wait. A failed liveness or startup probe is only told here; the supervisor
is the one who restarts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import aiohttp

from transship.agentapi.containers import ProbeState
from transship.api.container import Container, HttpGetAction, Probe, TcpSocketAction

MAX_ANSWER_CHARACTERS = 256  # characters of a probe's answer in messages
EXEC_GRACE_SECONDS = 1.0  # starting the command in the container is not the command's time


@dataclass(frozen=True)
class Health:
    """What the probes say together."""

    started: bool = False
    ready: bool = False
    failed: bool = False  # liveness or startup: the container has to be restarted
    message: str = ""

    @classmethod
    def known(cls, probes: ProbeState) -> Health:
        return cls(started=probes.started, ready=probes.ready, message=probes.message)

    @property
    def lasting(self) -> ProbeState:
        """What outlives this agent and goes along in a move: a failed probe has to fail anew."""
        message = "" if self.failed else self.message
        return ProbeState(started=self.started, ready=self.ready, message=message)


@dataclass(frozen=True)
class Outcome:
    succeeded: bool
    answer: str = ""


class Executor(Protocol):
    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        """Run a command inside the container."""
        ...


class Prober:
    """The probes of one running instance; made anew for each instance.

    known: what they said of it before, under another agent or on another node. It stands until they
    say otherwise. ran_seconds count towards each probe's initial delay.
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
        self.health = Health.known(known)
        self._asking: set[asyncio.Task[Outcome]] = set()
        self._tasks = [
            asyncio.create_task(self._follow(probe, note))
            for probe, note in (
                (container.startup_probe, self._note_startup),
                (container.liveness_probe, self._note_liveness),
                (container.readiness_probe, self._note_readiness),
            )
            if probe is not None
        ]
        self._started = asyncio.Event()
        if self.health.started:
            self._started.set()

    def stop(self) -> None:
        """Ask no more. A command that is running in the container comes to its own end."""
        for task in self._tasks:
            task.cancel()

    async def stop_and_wait(self) -> None:
        """The same, and wait for that end: no longer than the probe's timeout."""
        self.stop()
        if self._asking:
            await asyncio.wait(self._asking)

    async def _follow(self, probe: Probe, note: Callable[[Streak, Outcome, Probe], None]) -> None:
        if probe is not self._container.startup_probe:
            await self._started.wait()
        await asyncio.sleep(max(0.0, probe.initial_delay_seconds - self._ran_seconds))
        streak = Streak()
        while not (probe is self._container.startup_probe and self.health.started):
            asking = asyncio.create_task(self._ask(probe))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
            outcome = await asyncio.shield(asking)
            streak = streak.after(outcome)
            before = self.health
            note(streak, outcome, probe)
            if self.health != before:
                self._changed()
            await asyncio.sleep(probe.period_seconds)

    def _note_startup(self, streak: Streak, outcome: Outcome, probe: Probe) -> None:
        if streak.successes >= 1:
            self.health = replace(self.health, started=True, message="")
            self._started.set()
        elif streak.failures >= probe.failure_threshold:
            told = f"startup probe failed: {outcome.answer}"
            self.health = replace(self.health, failed=True, message=told)

    def _note_liveness(self, streak: Streak, outcome: Outcome, probe: Probe) -> None:
        if streak.failures >= probe.failure_threshold:
            told = f"liveness probe failed: {outcome.answer}"
            self.health = replace(self.health, failed=True, message=told)

    def _note_readiness(self, streak: Streak, outcome: Outcome, probe: Probe) -> None:
        if streak.successes >= probe.success_threshold:
            self.health = replace(self.health, ready=True, message="")
        elif streak.failures >= probe.failure_threshold:
            told = f"readiness probe failed: {outcome.answer}"
            self.health = replace(self.health, ready=False, message=told)

    async def _ask(self, probe: Probe) -> Outcome:
        """One try; whatever goes wrong is a failure of the probe."""
        limit = float(probe.timeout_seconds)
        try:
            async with asyncio.timeout(limit + EXEC_GRACE_SECONDS):
                return await self._try(probe, limit)
        except TimeoutError:
            return Outcome(succeeded=False, answer=f"no answer in {probe.timeout_seconds} s")
        except Exception as e:  # whatever it is: a probe that dies would never fail again
            return Outcome(succeeded=False, answer=str(e)[:MAX_ANSWER_CHARACTERS])

    async def _try(self, probe: Probe, limit: float) -> Outcome:
        if probe.exec is not None:
            return await self._executor.execute(probe.exec.command, timeout_seconds=limit)
        if self._address is None:
            return Outcome(succeeded=False, answer="the container has no address to ask at")
        async with asyncio.timeout(limit):
            if probe.tcp_socket is not None:
                return await _connect(self._address, probe.tcp_socket)
            if probe.http_get is not None:
                return await _get(self._address, probe.http_get)
        return Outcome(succeeded=True)  # a probe that asks nothing


@dataclass(frozen=True)
class Streak:
    """How often in a row a probe has said the same."""

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
    """2xx and 3xx are success; a redirect is not followed: it may lead out of the container."""
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{action.port}{action.path}"
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as reply:
        if 200 <= reply.status < 400:
            return Outcome(succeeded=True)
        text = (await reply.content.read(MAX_ANSWER_CHARACTERS)).decode(errors="replace")
        return Outcome(succeeded=False, answer=f"HTTP {reply.status}: {text}")
