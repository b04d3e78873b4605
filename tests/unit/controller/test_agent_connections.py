"""Clients of agents: kept while nothing changes, made anew for a new endpoint or certificate."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509

from fakes.resources import node_agent
from transship.api.node_agent import NodeAgent
from transship.common.certificates import Authority, new_authority, write_credentials
from transship.common.errors import Unreachable
from transship.common.tls import TlsFiles, server_context
from transship.controller import agent_connections as connections_module
from transship.controller.agent_connections import AgentConnections

AUTHORITY = new_authority("test")


def issued(folder: Path, *, at: int, authority: Authority = AUTHORITY) -> TlsFiles:
    """The operator's certificate; `at` is when its files were written."""
    ca = folder / "ca.crt"
    ca.write_bytes(authority.credentials.certificate)
    own = write_credentials(authority.issue_operator(), folder, "operator")
    files = TlsFiles(ca, own.certificate, own.key)
    for file in (ca, own.certificate, own.key):
        os.utime(file, (at, at))
    return files


def serial_in(files: TlsFiles) -> int:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


@pytest.fixture
async def connections(tmp_path: Path) -> AsyncIterator[AgentConnections]:
    made = AgentConnections(issued(tmp_path, at=1))
    yield made
    await made.close()


class Agent:
    """node-a's agent, and the certificates that it was shown."""

    def __init__(self, folder: Path) -> None:
        own = write_credentials(
            AUTHORITY.issue_agent("node-a", addresses=["127.0.0.1"]), folder, "agent"
        )
        self._context = server_context(
            authority=folder / "ca.crt", certificate=own.certificate, key=own.key
        )
        self.reported: list[int] = []
        self.asked = asyncio.Event()
        self.pause = asyncio.Event()
        self.pause.set()

    async def __aenter__(self) -> NodeAgent:
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context).start()
        port = self._runner.addresses[0][1]
        return node_agent("node-a", endpoint=f"https://127.0.0.1:{port}")

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        tls: ssl.SSLObject = request.transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        self.reported.append(x509.load_der_x509_certificate(certificate).serial_number)
        self.asked.set()
        await self.pause.wait()
        return web.Response(text='{"containers": []}')


async def test_a_new_endpoint_makes_a_new_client(connections: AgentConnections) -> None:
    first = connections.to(node_agent("node-a"))
    assert connections.to(node_agent("node-a")) is first
    moved = connections.to(node_agent("node-a", endpoint="https://10.0.0.9:7443"))
    assert moved.endpoint == "https://10.0.0.9:7443"
    with pytest.raises(Unreachable):
        connections.to(node_agent("node-b", endpoint=""))


async def test_a_renewed_certificate_is_shown_without_a_restart(
    tmp_path: Path, connections: AgentConnections
) -> None:
    files, agent = issued(tmp_path, at=1), Agent(tmp_path)
    async with agent as registered:
        await connections.to(registered).containers()
        await connections.to(registered).containers()
        assert agent.reported == [serial_in(files)] * 2
        issued(tmp_path, at=2)
        await connections.to(registered).containers()
        assert agent.reported[2] == serial_in(files) != agent.reported[0]
        assert connections.to(registered) is connections.to(registered)


async def test_a_call_that_is_under_way_when_the_certificate_is_renewed_gets_its_answer(
    tmp_path: Path, connections: AgentConnections
) -> None:
    agent = Agent(tmp_path)
    async with agent as registered:
        agent.pause.clear()
        client = connections.to(registered)
        call = asyncio.create_task(client.containers())
        await asyncio.wait_for(agent.asked.wait(), timeout=5)
        issued(tmp_path, at=2)
        assert connections.to(registered) is not client
        agent.pause.set()
        assert await call == ()
        assert await client.containers() == ()


async def test_an_old_client_is_closed_when_no_call_can_be_under_way(
    tmp_path: Path, connections: AgentConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections_module, "RETIREMENT_SECONDS", 0.01)
    async with Agent(tmp_path) as registered:
        client = connections.to(registered)
        await client.containers()
        issued(tmp_path, at=2)
        connections.to(registered)
        [closing] = [t for t in asyncio.all_tasks() if t.get_name() == "retire node-a"]
        await asyncio.wait_for(closing, timeout=5)
        with pytest.raises(RuntimeError):
            await client.containers()


async def test_half_of_a_renewal_changes_nothing_until_the_other_half_is_there(
    tmp_path: Path, connections: AgentConnections
) -> None:
    files = issued(tmp_path, at=1)
    first, key = connections.to(node_agent("node-a")), files.key.read_bytes()
    issued(tmp_path, at=2)
    renewed = files.key.read_bytes()
    files.key.write_bytes(key)
    assert connections.to(node_agent("node-a")) is first
    files.key.unlink()
    assert connections.to(node_agent("node-a")) is first
    moved = connections.to(node_agent("node-a", endpoint="https://10.0.0.9:7443"))
    assert moved.context is first.context
    files.key.write_bytes(renewed)
    assert connections.to(node_agent("node-a")).context is not first.context


@pytest.mark.parametrize("broken", ["missing", "empty", "of another"])
async def test_without_any_certificate_an_agent_is_unreachable_until_there_is_one(
    tmp_path: Path, broken: str
) -> None:
    files = issued(tmp_path, at=1)
    match broken:
        case "missing":
            files.certificate.unlink()
        case "empty":
            files.authority.write_bytes(b"")
        case _:
            other = AUTHORITY.issue_operator()
            files.key.write_bytes(other.key)
    connections = AgentConnections(files)
    with pytest.raises(Unreachable) as caught:
        connections.to(node_agent("node-a"))
    assert caught.value.reason == "AgentUnreachable"
    issued(tmp_path, at=2)
    connections.to(node_agent("node-a"))
    await connections.close()
