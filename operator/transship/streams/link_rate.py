"""Measures the link to another agent, by sending bytes over a stream of its own.

It sends portions of growing size, and the peer replies to each with one byte. A fast link needs a
large portion to be measured; a slow link must not be busy for long.
"""

from __future__ import annotations

import asyncio
import ssl
import time

from transship.common.errors import InvalidInput, Unreachable
from transship.streams.connection import Hello, Stream, StreamKind, accept, open_stream

FIRST_BYTES = 1 << 20
LARGEST_BYTES = 64 << 20
ENOUGH_SECONDS = 0.25
TIMEOUT_SECONDS = 20.0
CHUNK_BYTES = 1 << 18
_SIZE_BYTES = 4
_ARRIVED = b"\x01"


async def measure(address: str, *, port: int, context: ssl.SSLContext, node: str) -> float:
    """Return the bytes per second to the agent of `node`. Raises Unreachable."""
    hello = Hello(migration="", kind=StreamKind.RATE)
    stream = await open_stream(address, port=port, context=context, node=node, hello=hello)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            size, seconds = FIRST_BYTES, await _portion(stream, FIRST_BYTES)
            while seconds < ENOUGH_SECONDS and size < LARGEST_BYTES:
                size *= 4
                seconds = await _portion(stream, size)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as e:
        raise Unreachable(f"measuring the link to {node}: {str(e) or 'no answer'}") from e
    finally:
        await stream.close()
    return size / max(seconds, 1e-6)


async def _portion(stream: Stream, size: int) -> float:
    chunk = bytes(CHUNK_BYTES)
    began = time.monotonic()
    stream.writer.write(size.to_bytes(_SIZE_BYTES, "little"))
    for _ in range(size // CHUNK_BYTES):
        stream.writer.write(chunk)
        await stream.writer.drain()
    await stream.reader.readexactly(len(_ARRIVED))
    return time.monotonic() - began


async def serve(hello: Hello, client: str, stream: Stream) -> None:
    """Serve the other end: discard all bytes. It is a handler of streams.connection."""
    await accept(stream)
    while True:
        try:
            head = await stream.reader.readexactly(_SIZE_BYTES)
        except asyncio.IncompleteReadError:
            return
        left = int.from_bytes(head, "little")
        if left > LARGEST_BYTES:
            raise InvalidInput(f"measuring a link by {left} bytes at once")
        while left:
            got = len(await stream.reader.read(min(left, CHUNK_BYTES)))
            if not got:
                return
            left -= got
        stream.writer.write(_ARRIVED)
        await stream.writer.drain()
