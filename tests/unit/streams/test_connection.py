"""The end of a stream, whatever the peer does."""

from __future__ import annotations

import asyncio

import pytest

from transship.streams import connection
from transship.streams.connection import Stream


async def test_it_is_closed_as_often_as_one_likes_also_before_a_peer_that_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "CLOSE_SECONDS", 0.05)
    ended = asyncio.Event()

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.transport.abort()

    server = await asyncio.start_server(hang, "127.0.0.1", 0, limit=1)
    port = server.sockets[0].getsockname()[1]
    stream = Stream(*await asyncio.open_connection("127.0.0.1", port))
    stream.writer.write(bytes(64 << 20))  # more than the buffers on the way take
    await stream.close()
    await stream.close()
    assert stream.writer.transport.get_write_buffer_size() == 0  # nothing of it is kept
    ended.set()
    server.close()
    await server.wait_closed()
