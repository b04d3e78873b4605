"""When both processes of a page server were killed, the instance that it served is ended, no other.

And nothing where that is not certain: a page server may be slow, or say what nobody understands.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from transship.agent.containers.instances import NodeInstances
from transship.agent.migration.target import resume
from transship.agent.migration.target.restores import NodeRestores
from transship.agent.migration.target.resume import Resume
from transship.agentapi.containers import ContainerOrder
from transship.common.errors import DeadlineExceeded
from transship.memory.page_server import client as page_servers
from transship.memory.page_server import messages
from transship.memory.page_server.client import PageServerClient, PageServerDead, PageServerSilent
from transship.memory.page_server.messages import Answer
from transship.runtime.layout import Layout

CONTAINER = "c"


@dataclass
class Processes:
    """Stands for runtime and network: which instance runs, and which were killed."""

    layout: Layout
    instance: int = 1
    killed: list[int] = field(default_factory=list)

    async def kill(self, container: str) -> None:
        assert container == CONTAINER
        self.killed.append(self.instance)

    async def start(self, container: str) -> None:
        assert (
            PageServerClient.find(self.layout, container) is None
        )  # or it could be taken for the old
        self.instance += 1

    def create(self, *_: object) -> None: ...

    def serve(self, *_: object) -> None: ...


@pytest.fixture
def node(tmp_path: Path) -> Processes:
    """With a container whose page server is dead."""
    layout = Layout(runtime_dir=tmp_path)
    work = layout.images(CONTAINER) / "work"
    work.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(work)  # the address of a socket has 108 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(messages.SOCKET_NAME)
    os.chdir(before)
    return Processes(layout)


def restores(node: Processes) -> NodeRestores:
    return NodeRestores(cast("Any", node), cast("Any", None))


async def start_anew(node: Processes) -> None:
    order = cast("ContainerOrder", SimpleNamespace(id=CONTAINER, addresses=()))
    await NodeInstances(cast("Any", node), cast("Any", node)).start(order)


async def test_it_is_ended_before_anybody_is_told(node: Processes) -> None:
    with pytest.raises(PageServerDead):
        await restores(node).settle(CONTAINER)
    assert node.killed == [1]


async def test_it_is_ended_however_often_that_is_asked_for(node: Processes) -> None:
    ours = restores(node)
    assert await ours.lacks_memory(CONTAINER)
    await ours.lose_memory(CONTAINER)
    await ours.lose_memory(CONTAINER)
    assert node.killed == [1]
    assert not ours.images(CONTAINER).exists()


async def test_the_instance_after_it_is_left_alone(node: Processes) -> None:
    ours = restores(node)
    with pytest.raises(PageServerDead):
        await ours.settle(CONTAINER)
    await start_anew(node)
    await ours.lose_memory(CONTAINER)
    assert (node.instance, node.killed) == (2, [1])


Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"\x00{]\n")


async def a_long_story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"x" * 200_000)


async def another_type(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b'{"missing": "many"}\n')


async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b'{"missing": 0, ')


async def nothing_at_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()


@dataclass
class LivingPageServer:
    """Its control socket; what it says can be changed while it lives."""

    processes: Processes
    says: Conversation = silence

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self.says(reader, writer)
        writer.close()

    @property
    def page_server(self) -> PageServerClient:
        found = PageServerClient.find(self.processes.layout, CONTAINER)
        assert found is not None
        return found


@pytest.fixture
async def living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[LivingPageServer]:
    monkeypatch.setattr(page_servers, "STATE_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(page_servers, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(resume, "SETTLE_AGAIN_SECONDS", 0.0)
    layout = Layout(runtime_dir=tmp_path)
    work = layout.images(CONTAINER) / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)  # the address of a socket has 108 bytes
    made = LivingPageServer(Processes(layout))
    async with await asyncio.start_unix_server(made.converse, messages.SOCKET_NAME):
        yield made


NO_ANSWERS = [silence, garbage, a_long_story, another_type, half_an_answer, nothing_at_all]


@pytest.mark.parametrize("says", NO_ANSWERS)
async def test_what_is_no_answer_is_no_proof_that_the_page_server_was_killed(
    says: Conversation, living: LivingPageServer
) -> None:
    living.says = says
    ours = restores(living.processes)
    for asking in (
        living.page_server.state(),
        living.page_server.wait_done(),
        ours.lacks_memory(CONTAINER),
        ours.lose_memory(CONTAINER),
        ours.settle(CONTAINER),
    ):
        with pytest.raises(PageServerSilent, check=lambda e: e.reason == "PageServerSilent"):
            await asking
    for waiting in (
        living.page_server.wait_all_stored(timeout_seconds=0.1),
        living.page_server.wait_final(timeout_seconds=0.1),
        living.page_server.compose(timeout_seconds=0.1),
    ):
        with pytest.raises(DeadlineExceeded):
            await waiting
    assert living.processes.killed == []


async def test_a_copy_whose_page_server_is_silent_for_a_while_is_settled_in_the_end(
    living: LivingPageServer,
) -> None:
    @dataclass
    class Parts:
        restores: NodeRestores

    async def nobody(container: str) -> None:
        raise AssertionError("nothing is lost")

    async def done(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(messages.encode(Answer()))

    ours = restores(living.processes)
    settling = asyncio.create_task(Resume(cast("Any", Parts(ours)), lose=nobody).settle(CONTAINER))
    await asyncio.wait([settling], timeout=0.3)
    assert not settling.done()
    living.says = done
    async with asyncio.timeout(2):
        await settling
    assert not ours.images(CONTAINER).exists()


async def test_a_page_server_of_another_version_is_understood(living: LivingPageServer) -> None:
    async def newer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"missing": 7, "temperature": 21}\n')

    living.says = newer
    assert (await living.page_server.state()).missing == 7
