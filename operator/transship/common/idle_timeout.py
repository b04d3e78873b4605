"""Deadlines for work whose length nobody knows: over when nothing has come of it for too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from transship.common.errors import TransshipError

T = TypeVar("T")

Progress = Callable[[], Awaitable[int]]
"""A number that changes as long as the work goes on."""

LOOKS = 3
"""So often is progress looked for within the patience."""


@contextlib.asynccontextmanager
async def idle_timeout(seconds: float, progress: Progress | None = None) -> AsyncIterator[None]:
    """Raises TimeoutError after so long, counted from the last sign of progress."""
    async with asyncio.timeout(seconds) as limit:
        if progress is None:
            yield
            return
        watching = asyncio.create_task(_put_off(limit, seconds, progress))
        try:
            yield
        finally:
            watching.cancel()


async def _put_off(limit: asyncio.Timeout, seconds: float, progress: Progress) -> None:
    seen: int | None = None
    with contextlib.suppress(TransshipError, OSError):  # who cannot tell has no more time
        while True:
            await asyncio.sleep(seconds / LOOKS)
            now = await progress()
            if now != seen:
                limit.reschedule(asyncio.get_running_loop().time() + seconds)
            seen = now


async def unless_failed(work: Coroutine[Any, Any, T], other: Coroutine[Any, Any, object]) -> T:
    """The result of the work. When the other fails first, the work is cancelled and that raised."""
    working, watching = asyncio.create_task(work), asyncio.create_task(other)
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            watching.result()
        return await working
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
