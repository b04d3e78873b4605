"""Over a real connection with TLS, as between two agents."""

from __future__ import annotations

import asyncio

import pytest

from transship.common.errors import Unreachable
from transship.streams import link_rate
from transship.streams.connection import Stream
from transship.streams.link_rate import FIRST_BYTES


class Wire:
    """Both ends of a link that carries so many bytes a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.carried = 0

    async def connect(self) -> tuple[Stream, asyncio.Server]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while size := await reader.read(4):
                left = int.from_bytes(size, "little")
                while left:
                    got = len(await reader.read(min(left, 1 << 18)))
                    self.carried += got
                    left -= got
                    await asyncio.sleep(got / self.rate)
                writer.write(b"\x01")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return Stream(*await asyncio.open_connection("127.0.0.1", port)), server


async def test_a_slow_link_is_not_kept_busy_for_long(monkeypatch) -> None:
    wire = Wire(2e6)
    stream, server = await wire.connect()
    monkeypatch.setattr(link_rate, "open_stream", lambda *_, **__: _given(stream))
    rate = await link_rate.measure("127.0.0.1", port=1, context=None, node="node-b")
    assert 0 < rate <= 2e6
    assert wire.carried == FIRST_BYTES
    server.close()


async def test_a_fast_link_is_measured_by_more(monkeypatch) -> None:
    wire = Wire(1e12)
    stream, server = await wire.connect()
    monkeypatch.setattr(link_rate, "open_stream", lambda *_, **__: _given(stream))
    await link_rate.measure("127.0.0.1", port=1, context=None, node="node-b")
    assert wire.carried > FIRST_BYTES
    server.close()


async def test_a_link_that_breaks_is_said_to_be_broken(monkeypatch) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stream = Stream(*await asyncio.open_connection("127.0.0.1", port))
    monkeypatch.setattr(link_rate, "open_stream", lambda *_, **__: _given(stream))
    with pytest.raises(Unreachable, match="node-b"):
        await link_rate.measure("127.0.0.1", port=1, context=None, node="node-b")
    server.close()


async def _given(stream: Stream) -> Stream:
    return stream
