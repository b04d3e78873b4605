"""Background tasks whose failures are never lost.

`Tasks` is for tasks that end by themselves: a failure is logged. `Background` is for tasks that run
as long as their process: if one ends, for whatever reason, the process must end too, so that the
kubelet or systemd restarts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from loguru import logger

from transship.common.errors import TransshipError

T = TypeVar("T")

Work = Callable[[], Coroutine[Any, Any, None]]

RESTART_SECONDS = 5.0


class TaskEnded(TransshipError):
    """A background task has ended that must run as long as its process."""

    reason = "TaskEnded"


class Tasks:
    """Concurrent tasks that end by themselves."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of tasks that have not ended yet."""
        return len(self._running)

    def begin(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait(self, *, timeout_seconds: float) -> None:
        """Wait until all tasks have ended, at most for this time."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=timeout_seconds)

    async def close(self) -> None:
        """Cancel all of them, and wait for their end."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log(error, task=task.get_name(), message="a background task has failed")


class Background:
    """Tasks that run as long as their process."""

    def __init__(self, stop: asyncio.Event) -> None:
        """stop: the event that ends the process. It is set as soon as one of the tasks ends."""
        self._stop = stop
        self._kept: set[asyncio.Task[None]] = set()
        self._failure: TaskEnded | None = None

    def keep(self, work: Work, *, name: str) -> None:
        task = asyncio.create_task(work(), name=name)
        self._kept.add(task)
        task.add_done_callback(self._ended)

    def raise_failure(self) -> None:
        """Raise TaskEnded if a task has ended before `close` was called."""
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """Cancel all of them, and wait for their end."""
        kept, self._kept = self._kept, set()
        for task in kept:
            task.cancel()
        await asyncio.gather(*kept, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        # closing has removed the tasks that it ends
        if task not in self._kept:
            return
        self._kept.discard(task)
        name, cause = task.get_name(), "it returned" if error is None else str(error)
        _log(error, task=name, message="a background task has ended: the process ends")
        if self._failure is None:
            self._failure = TaskEnded(f"the background task {name} has ended: {cause}")
        self._stop.set()


def _log(error: BaseException | None, *, task: str, message: str) -> None:
    """Log an error, with a traceback unless it was raised on purpose (TransshipError)."""
    log = logger.bind(task=task)
    if error is not None:
        log = log.bind(error=str(error))
        if not isinstance(error, TransshipError):
            log = log.opt(exception=error)
    log.error(message)


async def restart_on_failure(work: Work, *, name: str) -> None:
    """Run the work, and start it again after each failure, until it returns."""
    while True:
        try:
            return await work()
        except Exception as e:
            _log(e, task=name, message="a background task has failed: it is restarted")
        await asyncio.sleep(RESTART_SECONDS)


async def cancel_when_set(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run the work, and cancel it as soon as `stop` is set."""
    if stop.is_set():
        work.close()
        return
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)


async def for_each(
    items: Iterable[T],
    work: Callable[[T], Awaitable[object]],
    *,
    doing: str,
    name: Callable[[T], str] = str,
) -> None:
    """Run the work for one item after the other. A failure is logged, and the next item follows.

    doing: a gerund and its object, for the log.
    """
    for item in items:
        try:
            await work(item)
        except Exception as e:
            _log(e, task=doing, message=f"{doing} failed for {name(item)}")


async def in_thread(work: Callable[[T], None], about: T) -> None:
    """Run in a thread, and wait for its end even when cancelled: a thread cannot be cancelled."""
    thread = asyncio.create_task(asyncio.to_thread(work, about))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise


async def together(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run both at once; the first failure cancels the other one, and is raised."""
    tasks = [asyncio.create_task(one), asyncio.create_task(other)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
