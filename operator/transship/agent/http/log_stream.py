"""The log endpoint: a container's output as plain text, to its end or as it comes.

?follow=true ?tail=N ?since=RFC3339 ?timestamps=true, as kubectl logs has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aiohttp import web

from transship.common.errors import InvalidInput
from transship.runtime import logs
from transship.runtime.logs import LogLine

CHECK_SECONDS = 1.0  # aiohttp tells a handler of a gone client only by cancelling it: all handlers


@dataclass(frozen=True)
class LogSource:
    """Where the log of a container lies, and whether the container is still held here."""

    path: Callable[[str], Path]
    held: Callable[[str], bool]


@dataclass(frozen=True)
class LogQuery:
    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime | None = None


async def stream_log(request: web.Request, source: LogSource) -> web.StreamResponse:
    wanted = parse_query(request)
    container_id = request.match_info["id"]
    path = source.path(container_id)
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    with suppress(ConnectionError):  # the reader may leave at any time
        if wanted.follow:
            await _follow(request, response, wanted, source)
        else:
            lines = logs.read(path, tail=wanted.tail, since=wanted.since)
            async with aclosing(logs.in_batches(lines)) as batches:
                await _write(response, batches, wanted)
        await response.write_eof()
    return response


async def _follow(
    request: web.Request, response: web.StreamResponse, wanted: LogQuery, source: LogSource
) -> None:
    ended, container_id = asyncio.Event(), request.match_info["id"]

    def over() -> bool:
        transport = request.transport
        return transport is None or transport.is_closing() or not source.held(container_id)

    watching = asyncio.create_task(_set_when(ended, over))
    try:
        following = logs.follow(
            source.path(container_id), ended=ended, tail=wanted.tail, since=wanted.since
        )
        async with aclosing(following) as batches:
            await _write(response, batches, wanted)
    finally:
        watching.cancel()


async def _write(
    response: web.StreamResponse, batches: AsyncIterator[tuple[LogLine, ...]], wanted: LogQuery
) -> None:
    async for lines in batches:
        await response.write(b"".join(shown(line, wanted) for line in lines))


async def _set_when(event: asyncio.Event, over: Callable[[], bool]) -> None:
    while not over():  # noqa: ASYNC110 - aiohttp offers no event, see CHECK_SECONDS
        await asyncio.sleep(CHECK_SECONDS)
    event.set()


def shown(line: LogLine, wanted: LogQuery) -> bytes:
    start = f"{line.time} " if wanted.timestamps else ""
    return f"{start}{line.text}{'' if line.partial else chr(10)}".encode()


def parse_query(request: web.Request) -> LogQuery:
    query = request.query
    return LogQuery(
        follow=query.get("follow") == "true",
        timestamps=query.get("timestamps") == "true",
        tail=_tail(query.get("tail")),
        since=_since(query.get("since")),
    )


def _tail(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise InvalidInput(f"?tail=: must be a number of lines, not {text!r}")
    return int(text)


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        raise InvalidInput(f"?since=: must be a time such as 2026-01-31T12:00:00Z: {e}") from e
    if moment.tzinfo is None:
        raise InvalidInput(f"?since=: must have a time zone, as in 2026-01-31T12:00:00Z: {text!r}")
    return moment
