from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fakes.orders import container
from transship.agent.containers.probes import Health, Outcome, Prober
from transship.agent.journal import transitions
from transship.agentapi.containers import ProbeState
from transship.common.errors import DeadlineExceeded

EXEC = {"exec": {"command": ["check"]}, "periodSeconds": 1, "failureThreshold": 1}


class Scripted:
    """Answers one after the other; the last one repeats."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self._outcomes = list(outcomes)

    async def execute(self, argv: tuple[str, ...], *, timeout_seconds: float) -> Outcome:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


GOOD, BAD = Outcome(succeeded=True), Outcome(succeeded=False, answer="bad")


async def probing(
    executor: Scripted,
    *,
    address: str | None = None,
    seconds: float = 0.05,
    known: ProbeState | None = None,
    ran_seconds: float = 0.0,
    **probes: Any,
) -> Health:
    probed = container(**probes)
    prober = Prober(
        probed, address=address, executor=executor, known=known or transitions.not_probed(probed),
        ran_seconds=ran_seconds, changed=lambda: None,
    )  # fmt: skip
    await asyncio.sleep(seconds)
    prober.stop()
    return prober.health


async def test_without_probes_it_is_started_and_ready() -> None:
    health = await probing(Scripted(GOOD))
    assert (health.started, health.ready, health.failed) == (True, True, False)


async def test_the_others_wait_for_the_startup_probe() -> None:
    health = await probing(
        Scripted(BAD), startup_probe=EXEC | {"failureThreshold": 9}, readiness_probe=EXEC
    )
    assert (health.started, health.ready, health.failed) == (False, False, False)


async def test_a_startup_probe_that_succeeds_lets_the_others_begin() -> None:
    health = await probing(Scripted(GOOD), startup_probe=EXEC, readiness_probe=EXEC)
    assert (health.started, health.ready) == (True, True)


@pytest.mark.parametrize("kind", ["startup_probe", "liveness_probe"])
async def test_a_failed_startup_or_liveness_probe_calls_for_a_restart(kind: str) -> None:
    probes: dict[str, Any] = {kind: EXEC}
    health = await probing(Scripted(BAD), **probes)
    assert health.failed
    assert "bad" in health.message


async def test_a_failed_readiness_probe_calls_for_no_restart() -> None:
    health = await probing(Scripted(BAD), readiness_probe=EXEC)
    assert (health.ready, health.failed) == (False, False)


async def test_a_command_that_does_not_end_has_failed() -> None:
    executor = Scripted(DeadlineExceeded("running runc: not done in 1 s"))
    assert (await probing(executor, liveness_probe=EXEC)).failed


async def test_a_failure_below_the_threshold_is_forgiven() -> None:
    probe = EXEC | {"failureThreshold": 2}
    health = await probing(Scripted(BAD, GOOD), seconds=1.2, liveness_probe=probe)
    assert not health.failed


@pytest.fixture
async def web_server() -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        status = b"204 No Content" if b"/good" in line else b"503 Sorry"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize(("path", "ready"), [("/good", True), ("/bad", False)])
async def test_http_probes_use_the_containers_address(
    web_server: int, path: str, ready: bool
) -> None:
    probe = {"httpGet": {"port": web_server, "path": path}, "failureThreshold": 1}
    health = await probing(Scripted(BAD), address="127.0.0.1", seconds=0.2, readiness_probe=probe)
    assert health.ready is ready
    assert ready or "503" in health.message


async def test_tcp_probes_use_the_containers_address(web_server: int) -> None:
    open_probe = {"tcpSocket": {"port": web_server}}
    closed_probe = {"tcpSocket": {"port": 1}, "failureThreshold": 1}
    executor = Scripted(BAD)
    good = await probing(executor, address="127.0.0.1", seconds=0.1, readiness_probe=open_probe)
    bad = await probing(executor, address="127.0.0.1", seconds=0.1, readiness_probe=closed_probe)
    assert (good.ready, bad.ready) == (True, False)


async def test_without_an_address_a_tcp_probe_fails() -> None:
    probe = {"tcpSocket": {"port": 1}, "failureThreshold": 1}
    health = await probing(Scripted(GOOD), liveness_probe=probe)
    assert "no address" in health.message


@pytest.mark.parametrize("ready", [True, False])
async def test_the_known_state_stands_until_the_probe_has_another_result(ready: bool) -> None:
    probe = EXEC | {"failureThreshold": 3}
    known = ProbeState(started=True, ready=ready, message="HTTP 503")
    health = await probing(Scripted(BAD), known=known, readiness_probe=probe)
    assert (health.ready, health.message) == (ready, "HTTP 503")


async def test_a_ready_container_is_not_ready_any_more_when_its_probe_fails() -> None:
    known = ProbeState(started=True, ready=True)
    assert not (await probing(Scripted(BAD), known=known, readiness_probe=EXEC)).ready


async def test_a_startup_probe_that_has_succeeded_is_not_repeated() -> None:
    known = ProbeState(started=True, ready=True)
    health = await probing(Scripted(BAD), known=known, startup_probe=EXEC)
    assert (health.started, health.failed) == (True, False)


@pytest.mark.parametrize(("ran_seconds", "probed"), [(30.0, True), (29.0, False), (-5.0, False)])
async def test_the_initial_delay_counts_from_the_start_of_the_instance(
    ran_seconds: float, probed: bool
) -> None:
    probe = EXEC | {"initialDelaySeconds": 30}
    health = await probing(Scripted(GOOD), ran_seconds=ran_seconds, readiness_probe=probe)
    assert health.ready is probed
