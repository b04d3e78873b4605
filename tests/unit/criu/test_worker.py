"""The conversation with CRIU, against a program of that name that speaks its protocol."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.criu import worker as criu
from transship.criu.rpc import Kind, Options, Request
from transship.criu.worker import CriuFailed, Worker

FAKE = f"""#!{sys.executable}
import os, socket, sys, time
open(sys.argv[0] + ".pid", "w").write(str(os.getpid()))
channel = socket.socket(fileno=int(sys.argv[2]))
while request := channel.recv(1 << 16):
    kind = request[1]
    if kind == 10:
        channel.send(b"\\x08\\x0a\\x10\\x01\\x52\\x06\\x08\\x04\\x10\\x02\\x20\\x01")
    elif kind == 9:
        channel.send(b"\\x08\\x09\\x10\\x01\\x42\\x04\\x08\\x00\\x10\\x01")
    elif kind == 1:
        channel.send(b"\\x08\\x06\\x10\\x01\\x2a\\x0b\\x0a\\x09post-dump")
        answer = channel.recv(1 << 16)
        success = answer == b"\\x08\\x06\\x18\\x01"
        channel.send(b"\\x08\\x01\\x10\\x01" if success else b"\\x08\\x01\\x10\\x00\\x4a\\x02no")
    elif kind == 2:
        time.sleep(60)
    else:
        os._exit(3)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "criu"
    program.write_text(FAKE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.usefixtures("fake")
async def test_a_node_is_asked_what_it_can_do() -> None:
    facts = await criu.probe()
    assert (facts.version_text, facts.memory_tracking, facts.lazy_pages) == ("4.2.1", False, True)


@pytest.mark.usefixtures("fake")
async def test_criu_waits_for_the_reply_to_a_notification() -> None:
    scripts = []

    async def answer(name: str) -> None:
        scripts.append(name)

    async with await Worker.start() as worker:
        request = Request(kind=Kind.DUMP, options=Options(pid=1))
        assert (await worker.ask(request, on_notify=answer)).success
    assert scripts == ["post-dump"]


@pytest.mark.usefixtures("fake")
async def test_an_answer_that_fails_is_told_to_criu_and_to_the_caller() -> None:
    async def answer(_name: str) -> None:
        raise TransshipError("not frozen")

    async with await Worker.start() as worker:
        with pytest.raises(TransshipError, match="not frozen"):
            await worker.ask(Request(kind=Kind.DUMP), on_notify=answer)
        await worker.wait()


@pytest.mark.usefixtures("fake")
async def test_a_criu_that_dies_is_a_failure() -> None:
    async with await Worker.start() as worker:
        with pytest.raises(CriuFailed):
            await worker.ask(Request(kind=Kind.NOTIFY))


@pytest.mark.usefixtures("fake")
async def test_a_worker_is_gone_after_its_block(tmp_path: Path) -> None:
    async with await Worker.start() as worker:
        asking = asyncio.create_task(worker.ask(Request(kind=Kind.RESTORE)))
        await asyncio.sleep(0.2)
        asking.cancel()
    await asyncio.wait([asking])
    pid = (tmp_path / "criu.pid").read_text()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.usefixtures("fake")
async def test_what_a_dead_agent_left_is_waited_for() -> None:
    assert await criu.orphans_ended(timeout_seconds=5)


async def test_a_missing_criu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransshipError) as caught:
        await Worker.start()
    assert caught.value.reason == "CRIUMissing"
