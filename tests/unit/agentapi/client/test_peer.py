"""The client of peer agents against a real TLS server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from fakes.tls_server import Handle, Pki, serving
from transship.agentapi.client.peer import PeerClient
from transship.agentapi.errors import Failure
from transship.agentapi.migrations import MemoryState, Peer, VerdictNotice
from transship.agentapi.states import Verdict
from transship.common.errors import Refused, Unreachable
from transship.common.tls import client_context


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@asynccontextmanager
async def client_of(pki: Pki) -> AsyncIterator[PeerClient]:
    files = pki.files
    client = PeerClient(
        client_context(authority=files.authority, certificate=files.certificate, key=files.key)
    )
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def peer_of(pki: Pki, handle: Handle, *, node: str = "node-a") -> AsyncIterator[Peer]:
    """A peer that is to be node-a, served with the certificate of `node`."""
    async with serving(pki, handle, node=node) as endpoint:
        yield Peer(node="node-a", address="127.0.0.1", endpoint=endpoint)


async def test_a_request_names_its_migration_and_carries_its_message(pki: Pki) -> None:
    requested: list[str] = []

    def handle(request: web.Request) -> web.StreamResponse:
        requested.append(f"{request.method} {request.path} {request.content_type}")
        return web.Response(text='{"state": "Running", "awaited": true}')

    async with client_of(pki) as client, peer_of(pki, handle) as peer:
        assert await client.memory_state(peer, "m") == MemoryState(awaited=True)
        await client.hold(peer, "m")
        await client.decide(peer, VerdictNotice(migration="m", verdict=Verdict.RELEASED, epoch=2))
    assert requested == [
        "GET /v1/incoming/m/memory application/octet-stream",
        "POST /v1/incoming/m/hold application/octet-stream",
        "POST /v1/incoming/m/verdict application/json",
    ]


async def test_a_failure_of_the_peer_keeps_its_reason(pki: Pki) -> None:
    text = Failure(reason="WrongState", message="it is held").model_dump_json(by_alias=True)
    async with (
        client_of(pki) as client,
        peer_of(pki, lambda _: web.Response(status=409, text=text)) as peer,
    ):
        with pytest.raises(Refused, match="it is held") as caught:
            await client.hold(peer, "m")
    assert caught.value.reason == "WrongState"


@pytest.mark.parametrize("status", [200, 502])
async def test_an_answer_that_cannot_be_read_proves_nothing(pki: Pki, status: int) -> None:
    async with (
        client_of(pki) as client,
        peer_of(pki, lambda _: web.Response(status=status, text="what?")) as peer,
    ):
        with pytest.raises(Unreachable):
            await client.memory_state(peer, "m")


async def test_the_agent_of_another_node_gets_no_request(pki: Pki) -> None:
    requested: list[str] = []

    def handle(request: web.Request) -> web.StreamResponse:
        requested.append(request.path)
        return web.Response(text="{}")

    async with client_of(pki) as client, peer_of(pki, handle, node="node-b") as peer:
        with pytest.raises(Unreachable) as target:
            await client.hold(peer, "m")
        with pytest.raises(Unreachable) as source:
            await client.verdict(peer, "m")
    assert requested == []
    assert (target.value.reason, source.value.reason) == ("TargetUnreachable", "SourceUnreachable")
