"""Over a real TCP connection, with a peer that reads at a given rate."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from transship.common.errors import Unreachable
from transship.streams import link_rate
from transship.streams.connection import Stream
from transship.streams.link_rate import FIRST_BYTES


class Wire:
    """A link that carries so many bytes per second."""

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


async def test_a_slow_link_is_not_kept_busy_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(2e6)
    stream, server = await wire.connect()
    monkeypatch.setattr(link_rate, "open_stream", lambda *_, **__: _opened(stream))
    rate = await link_rate.measure(
        "127.0.0.1", port=1, context=ssl.create_default_context(), node="node-b"
    )
    assert 0 < rate <= 2e6
    assert wire.carried == FIRST_BYTES
    server.close()


async def test_a_fast_link_is_measured_by_more(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(1e12)
    stream, server = await wire.connect()
    monkeypatch.setattr(link_rate, "open_stream", lambda *_, **__: _opened(stream))
    await link_rate.measure(
        "127.0.0.1", port=1, context=ssl.create_default_context(), node="node-b"
    )
    assert wire.carried > FIRST_BYTES
    server.close()


async def test_a_link_that_breaks_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def close_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(close_early, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stream = Stream(*await asyncio.open_connection("127.0.0.1", port))
    monkeypatch.setattr(link_rate, "open_stream", lambda *_, **__: _opened(stream))
    with pytest.raises(Unreachable, match="node-b"):
        await link_rate.measure(
            "127.0.0.1", port=1, context=ssl.create_default_context(), node="node-b"
        )
    server.close()


async def _opened(stream: Stream) -> Stream:
    return stream
