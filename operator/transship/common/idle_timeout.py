"""Time limits for work of unknown length: it fails when it makes no progress for too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from transship.common.errors import TransshipError

T = TypeVar("T")

Progress = Callable[[], Awaitable[int]]
"""Returns a number that changes while the work makes progress."""

CHECKS_PER_TIMEOUT = 3
"""How often progress is checked within the time limit."""


@contextlib.asynccontextmanager
async def idle_timeout(seconds: float, progress: Progress | None = None) -> AsyncIterator[None]:
    """Raise TimeoutError in the block, `seconds` after the last progress.

    Without `progress` the limit counts from the begin, like that of asyncio.timeout.
    """
    async with asyncio.timeout(seconds) as limit:
        if progress is None:
            yield
            return
        watching = asyncio.create_task(_extend(limit, seconds, progress))
        try:
            yield
        finally:
            watching.cancel()


async def _extend(limit: asyncio.Timeout, seconds: float, progress: Progress) -> None:
    previous: int | None = None
    # if progress cannot be read any more, the limit is not extended any more
    with contextlib.suppress(TransshipError, OSError):
        while True:
            await asyncio.sleep(seconds / CHECKS_PER_TIMEOUT)
            current = await progress()
            if current != previous:
                limit.reschedule(asyncio.get_running_loop().time() + seconds)
            previous = current


async def cancel_if_fails(work: Coroutine[Any, Any, T], other: Coroutine[Any, Any, object]) -> T:
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
