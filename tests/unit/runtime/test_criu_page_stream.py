"""The page stream over real TLS on the loopback interface; CRIU's ends are the test's."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from transship.common.certificates import Authority, agent_name, new_authority, write_credentials
from transship.common.errors import Refused, TransshipError, Unreachable
from transship.runtime.page_stream import PageStream, RemotePages, answer, open_stream

HOST = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return new_authority("test")


def context(authority: Authority, folder: Path, node: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cadata=authority.credentials.certificate.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    files = write_credentials(authority.issue_agent(node, addresses=[HOST]), folder, node)
    made.load_cert_chain(files.certificate, files.key)
    return made


class Pair:
    """Both streams of a move, and where CRIU would read and write."""

    def __init__(self, source: PageStream, target: PageStream) -> None:
        self.source, self.target = source, target
        for stream in (source, target):
            stream.criu_end.settimeout(5)

    async def exchange(self, data: bytes) -> bytes:
        sending = asyncio.to_thread(self.source.criu_end.sendall, data)
        received, _ = await asyncio.gather(asyncio.to_thread(self._read, len(data)), sending)
        return received

    def _read(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += self.target.criu_end.recv(1 << 20)
        return got


@asynccontextmanager
async def connected(
    authority: Authority, folder: Path, *, peer: str = "source", node: str = "target"
) -> AsyncIterator[Pair]:
    server = context(authority, folder, "target", ssl.Purpose.CLIENT_AUTH)
    client = context(authority, folder, "source", ssl.Purpose.SERVER_AUTH)
    listener = socket.create_server((HOST, 0))
    pages = RemotePages(HOST, listener.getsockname()[1], node=node, context=client)
    target = PageStream(lambda: answer(listener, server, peer=agent_name(peer)))
    connecting = asyncio.create_task(target.connect())
    streams = [target]
    try:
        source = await open_stream(pages)
        streams.append(source)
        await connecting
        yield Pair(source, target)
    finally:
        for stream in streams:
            stream.close()
        listener.close()
        await asyncio.wait([connecting])
        connecting.exception()


async def test_pages_arrive_as_they_were_sent(authority: Authority, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    async with connected(authority, tmp_path) as pair:
        assert await pair.exchange(data) == data


async def test_an_answer_comes_back(authority: Authority, tmp_path: Path) -> None:
    async with connected(authority, tmp_path) as pair:
        await asyncio.to_thread(pair.target.criu_end.sendall, b"\x00\x00\x00\x00")
        assert await asyncio.to_thread(pair.source.criu_end.recv, 4) == b"\x00\x00\x00\x00"


async def test_the_bytes_are_counted_when_both_have_hung_up(
    authority: Authority, tmp_path: Path
) -> None:
    async with connected(authority, tmp_path) as pair:
        await pair.exchange(b"x" * 100_000)
        pair.source.criu_end.close()
        assert await pair.source.finish() == 100_000
        assert await asyncio.to_thread(pair.target.criu_end.recv, 1) == b""


async def test_a_closed_stream_is_an_error_to_criu(authority: Authority, tmp_path: Path) -> None:
    async with connected(authority, tmp_path) as pair:
        end = os.dup(pair.source.criu_end.fileno())
        pair.source.close()
        with socket.socket(fileno=end) as criu, pytest.raises(OSError, match="Broken pipe"):
            criu.sendall(b"x" * (1 << 20))


async def test_the_peers_end_shows(authority: Authority, tmp_path: Path) -> None:
    async with connected(authority, tmp_path) as pair:
        pair.target.close()
        assert await asyncio.to_thread(pair.source.criu_end.recv, 1) == b""


async def test_an_agent_that_is_not_the_source_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(Refused):
        async with connected(authority, tmp_path, peer="another"):
            pass


async def test_a_target_of_another_name_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    with pytest.raises(Unreachable, match="elsewhere"):
        async with connected(authority, tmp_path, node="elsewhere"):
            pass


async def test_a_target_that_is_not_there_is_unreachable(
    authority: Authority, tmp_path: Path
) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    client = context(authority, tmp_path, "source", ssl.Purpose.SERVER_AUTH)
    with pytest.raises(TransshipError):
        await open_stream(RemotePages(HOST, port, node="target", context=client))
