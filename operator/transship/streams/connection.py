"""Raw streams between two agents over mutual TLS.

The client sends one line of JSON, the Hello, and the server replies with one line of JSON, the
Welcome. From then on the stream is bytes in both directions. The handler of a stream checks that
the client's certificate names the agent that the migration expects.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from loguru import logger
from pydantic import ValidationError

from transship.api.base import ApiModel
from transship.api.reasons import Reason
from transship.common.errors import Refused, TransshipError, Unreachable
from transship.common.sockets import detect_dead_peers
from transship.streams.bandwidth_limit import BandwidthLimit

CONNECT_TIMEOUT_SECONDS = 5.0
CLOSE_SECONDS = 1.0
BUFFER_BYTES = 1 << 20
PUMP_CHUNK_BYTES = 1 << 18


class StreamKind(StrEnum):
    FILES = "Files"
    RATE = "Rate"  # measures the link: belongs to no migration


class Hello(ApiModel):
    """What the client asks for: a kind of stream, of one migration."""

    migration: str
    kind: StreamKind


class Welcome(ApiModel):
    """The server's reply. A refusal has a reason."""

    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Stream:
    """Bytes in both directions."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def close(self) -> None:
        """Close the stream, and abort it if the peer does not close its end. Can be repeated."""
        if self.writer.is_closing():
            return  # a second wait would be cancelled as the first was
        self.writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.writer.wait_closed()
        except (OSError, ssl.SSLError, TimeoutError):
            self.writer.transport.abort()


Handler = Callable[[Hello, str, Stream], Awaitable[None]]
"""Serves one stream: the hello, the common name of the client's certificate, the bytes."""


async def open_stream(
    address: str, *, port: int, context: ssl.SSLContext, node: str, hello: Hello
) -> Stream:
    """Connect to the agent of `node`. Raises Unreachable, or Refused with the server's reason."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=context, server_hostname=node, limit=BUFFER_BYTES
            )
            detect_dead_peers(writer.get_extra_info("socket"))
            stream = Stream(reader, writer)
            writer.write(hello.model_dump_json(by_alias=True).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
    except (OSError, TimeoutError) as e:
        raise Unreachable(
            f"opening a stream to {node} at {address}:{port}: {e}",
            reason=Reason.TARGET_UNREACHABLE,
        ) from e
    welcome = _parse_welcome(line, node=node)
    if welcome.reason:
        await stream.close()
        raise Refused(welcome.message, reason=welcome.reason)
    return stream


def _parse_welcome(line: bytes, *, node: str) -> Welcome:
    try:
        return Welcome.model_validate_json(line)
    except ValidationError as e:
        raise Unreachable(f"opening a stream to {node}: it closed the connection") from e


class StreamServer:
    """Accepts streams, and passes each to the handler of its kind."""

    def __init__(self, handlers: Mapping[StreamKind, Handler]) -> None:
        self._handlers = handlers
        self._server: asyncio.Server | None = None

    async def start(self, address: str, *, port: int, context: ssl.SSLContext) -> None:
        self._server = await asyncio.start_server(
            self._serve, address, port, ssl=context, limit=BUFFER_BYTES
        )

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = Stream(reader, writer)
        detect_dead_peers(writer.get_extra_info("socket"))
        try:
            hello = await self._greet(stream)
            await self._handlers[hello.kind](hello, common_name(writer), stream)
        except (TransshipError, ValidationError) as e:
            reason = e.reason if isinstance(e, TransshipError) else "InvalidInput"
            await _send(stream, Welcome(reason=reason, message=str(e)))
        except (OSError, TimeoutError) as e:
            logger.bind(error=str(e)).debug("a stream broke")
        finally:
            await stream.close()

    async def _greet(self, stream: Stream) -> Hello:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            return Hello.model_validate_json(await stream.reader.readline())


async def accept(stream: Stream) -> None:
    """Tell the client that its stream is accepted. A handler calls this before the first byte."""
    await _send(stream, Welcome())


async def _send(stream: Stream, welcome: Welcome) -> None:
    with contextlib.suppress(OSError):
        stream.writer.write(welcome.model_dump_json(by_alias=True).encode() + b"\n")
        await stream.writer.drain()


def common_name(writer: asyncio.StreamWriter) -> str:
    """Return the common name of the peer's verified certificate, or an empty string."""
    certificate = writer.get_extra_info("peercert") or {}
    for rdn in certificate.get("subject", ()):
        for key, value in rdn:
            if key == "commonName":
                return str(value)
    return ""


async def pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    bandwidth: BandwidthLimit | None = None,
) -> int:
    """Copy until the end of the stream, and end the copy too. Returns the bytes copied."""
    copied = 0
    while data := await reader.read(PUMP_CHUNK_BYTES):
        if bandwidth is not None and (seconds := bandwidth.delay(len(data))):
            await asyncio.sleep(seconds)
        writer.write(data)
        await writer.drain()
        copied += len(data)
    if writer.can_write_eof():
        writer.write_eof()
    return copied
