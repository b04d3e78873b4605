"""The log endpoint: a container's output as plain text, up to now or followed.

The query has the options of kubectl logs: ?follow=true ?tail=N ?since=RFC3339 ?timestamps=true.
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

# aiohttp reports a closed connection only by cancelling handlers, and then all of them
CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class LogSource:
    """The path of a container's log, and whether this node still has the container."""

    path: Callable[[str], Path]
    held: Callable[[str], bool]


@dataclass(frozen=True)
class LogQuery:
    """The options of a request."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: datetime | None = None


async def stream_log(request: web.Request, source: LogSource) -> web.StreamResponse:
    query = parse_query(request)
    container_id = request.match_info["id"]
    path = source.path(container_id)
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    with suppress(ConnectionError):  # the client may disconnect at any time
        if query.follow:
            await _follow(request, response, query, source)
        else:
            lines = logs.read(path, tail=query.tail, since=query.since)
            async with aclosing(logs.in_batches(lines)) as batches:
                await _write(response, batches, query)
        await response.write_eof()
    return response


async def _follow(
    request: web.Request, response: web.StreamResponse, query: LogQuery, source: LogSource
) -> None:
    ended, container_id = asyncio.Event(), request.match_info["id"]

    def is_over() -> bool:
        transport = request.transport
        return transport is None or transport.is_closing() or not source.held(container_id)

    watcher = asyncio.create_task(_set_when(ended, is_over))
    try:
        following = logs.follow(
            source.path(container_id), ended=ended, tail=query.tail, since=query.since
        )
        async with aclosing(following) as batches:
            await _write(response, batches, query)
    finally:
        watcher.cancel()


async def _write(
    response: web.StreamResponse, batches: AsyncIterator[tuple[LogLine, ...]], query: LogQuery
) -> None:
    async for lines in batches:
        await response.write(b"".join(format_line(line, query) for line in lines))


async def _set_when(event: asyncio.Event, condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - aiohttp offers no event, see CHECK_SECONDS
        await asyncio.sleep(CHECK_SECONDS)
    event.set()


def format_line(line: LogLine, query: LogQuery) -> bytes:
    start = f"{line.time} " if query.timestamps else ""
    return f"{start}{line.text}{'' if line.partial else chr(10)}".encode()


def parse_query(request: web.Request) -> LogQuery:
    options = request.query
    return LogQuery(
        follow=options.get("follow") == "true",
        timestamps=options.get("timestamps") == "true",
        tail=_tail(options.get("tail")),
        since=_since(options.get("since")),
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
