"""The client of agents against a real TLS server, with certificates of a real authority."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from fakes.resources import UID, report
from fakes.tls_server import Handle, Pki, serving
from transship.agentapi.client.agent import AgentClient
from transship.agentapi.client.transport import context_for
from transship.agentapi.containers import ContainerReports
from transship.agentapi.errors import Failure
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import SideState
from transship.common.errors import NotFound, Refused, TransshipError, Unreachable


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@asynccontextmanager
async def agent(pki: Pki, handle: Handle, *, node: str = "node-a") -> AsyncIterator[AgentClient]:
    """A client of node-a's agent, and a server that is the agent of `node`."""
    async with serving(pki, handle, node=node) as endpoint:
        client = AgentClient("node-a", endpoint, context=context_for("node-a", pki.files))
        try:
            yield client
        finally:
            await client.close()


def failing(status: int, reason: str = "WrongState") -> Handle:
    text = Failure(reason=reason, message="told", hint="do this").model_dump_json(by_alias=True)
    return lambda _: web.Response(status=status, text=text, content_type="application/json")


async def test_reports_are_read(pki: Pki) -> None:
    text = ContainerReports(containers=(report(epoch=3),)).model_dump_json(by_alias=True)
    async with agent(pki, lambda _: web.Response(text=text)) as client:
        assert (await client.containers())[0].epoch == 3


async def test_an_agent_that_tells_of_something_else_has_not_answered(pki: Pki) -> None:
    other = report().model_copy(update={"id": "another"}).model_dump_json(by_alias=True)
    async with agent(pki, lambda _: web.Response(text=other)) as client:
        with pytest.raises(TransshipError):
            await client.container(UID)
    move = MigrationReport(migration="n", state=SideState.RUNNING)
    text = move.model_dump_json(by_alias=True)
    async with agent(pki, lambda _: web.Response(text=text)) as client:
        for ask in (client.incoming, client.outgoing):
            assert (await ask("n")) == move
            with pytest.raises(TransshipError):
                await ask("m")


async def test_another_node_s_agent_gets_no_request(pki: Pki) -> None:
    asked: list[str] = []

    def handle(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(text="{}")

    async with agent(pki, handle, node="node-b") as client:
        with pytest.raises(Unreachable) as caught:
            await client.containers()
    assert asked == []
    assert "transship:agent:node-b" in caught.value.message


async def test_what_an_agent_does_not_know_is_none(pki: Pki) -> None:
    async with agent(pki, failing(404)) as client:
        assert await client.container(UID) is None
        assert await client.incoming("m") is None
        assert await client.abort_outgoing("m", container="c") is None
        await client.remove_container(UID, epoch=1)
        await client.forget_incoming("m")
        with pytest.raises(NotFound):
            await client.verdict("m")


@pytest.mark.parametrize(
    ("status", "kind"), [(409, Refused), (400, Refused), (502, TransshipError)]
)
async def test_a_failure_keeps_the_agent_s_words(
    pki: Pki, status: int, kind: type[TransshipError]
) -> None:
    async with agent(pki, failing(status)) as client:
        with pytest.raises(kind) as caught:
            await client.containers()
    assert not isinstance(caught.value, Unreachable)
    assert (caught.value.reason, caught.value.hint) == ("WrongState", "do this")
    assert "told" in caught.value.message


async def test_the_epoch_goes_with_a_removal(pki: Pki) -> None:
    asked: list[str] = []

    def handle(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path_qs}")
        return web.Response(status=204)

    async with agent(pki, handle) as client:
        await client.remove_container(UID, epoch=7)
    assert asked == [f"DELETE /v1/containers/{UID}?epoch=7"]


async def test_no_listener_is_unreachable(pki: Pki) -> None:
    context = context_for("node-a", pki.files)
    client = AgentClient("node-a", "https://127.0.0.1:1", context=context)
    with pytest.raises(Unreachable) as caught:
        await client.containers()
    await client.close()
    assert caught.value.reason == "AgentUnreachable"


async def test_logs_arrive_as_they_are_written(pki: Pki) -> None:
    async with agent(pki, lambda request: web.Response(text=request.path_qs)) as client:
        chunks = [chunk async for chunk in client.logs(UID, query={"tail": "5"})]
    assert b"".join(chunks) == f"/v1/containers/{UID}/logs?tail=5".encode()


async def test_logs_that_an_agent_refuses_raise_its_failure(pki: Pki) -> None:
    async with agent(pki, failing(409)) as client:
        with pytest.raises(Refused, match="told"):
            _ = [chunk async for chunk in client.logs(UID, query={})]


async def test_a_client_without_permission_changes_nothing(pki: Pki) -> None:
    def refuse() -> None:
        raise Refused("this operator leads no more", reason="NotLeading")

    context = context_for("node-a", pki.files)
    client = AgentClient("node-a", "https://127.0.0.1:1", context=context, permit=refuse)
    with pytest.raises(Refused, match="leads no more"):
        await client.remove_container(UID, epoch=1)
    with pytest.raises(Unreachable):
        await client.containers()
    await client.close()
