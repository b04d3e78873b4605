"""Threads: Python's switch interval, threads that must not end, and calls that may never return."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from loguru import logger

from transship.common.errors import DeadlineExceeded

T = TypeVar("T")

MAX_ABANDONED = 32
"""The highest number of threads that wait for servers that do not answer. Each costs its stack."""

_abandoned: set[Future[Any]] = set()

SWITCH_SECONDS = 0.0005
"""A thread that copies pages makes the others wait for Python's switch interval. Its default, 5 ms,
lengthens the freeze. A tenth of it has no measurable cost."""


def shorten_switch_interval() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)


def start_essential_thread(work: Callable[[], None], *, name: str) -> None:
    """Start a thread. When it ends, for whatever reason, the process ends with status 1."""

    def run() -> None:
        try:
            work()
        except BaseException:
            logger.exception("{} has failed", name)
        os._exit(1)

    threading.Thread(target=run, name=name, daemon=True).start()


async def may_hang(work: Callable[[], T], *, doing: str, timeout_seconds: float) -> T:
    """Run a function in a new thread and stop waiting for it after the time limit.

    For calls that block until a server answers: nothing can end such a thread earlier. The event
    loop has only a few threads, which the freeze and the rollback need, so it must not use these.

    Raises DeadlineExceeded. doing: a gerund and its object, for its message.
    """
    if len(_abandoned) >= MAX_ABANDONED:
        waiting = len(_abandoned)
        raise DeadlineExceeded(f"{doing}: {waiting} earlier calls still wait for their servers")
    future: Future[T] = Future()
    # from now on only the thread ends the future: a cancel does not
    future.set_running_or_notify_cancel()
    threading.Thread(target=_run, args=(work, future), name=doing, daemon=True).start()
    try:
        async with asyncio.timeout(timeout_seconds):
            return await asyncio.wrap_future(future)
    except TimeoutError as e:
        raise DeadlineExceeded(f"{doing}: no answer within {timeout_seconds:g} s") from e
    finally:
        if not future.done():
            _abandoned.add(future)
            future.add_done_callback(_abandoned.discard)


def _run(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except BaseException as e:
        future.set_exception(e)
