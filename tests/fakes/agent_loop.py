"""An event loop whose time passes only where a test lets it, and at once."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")

A_MOMENT_SECONDS = 1e-6
"""Long enough for everything that waits for no timer."""

OWNER: contextvars.ContextVar[set[asyncio.Task[Any]] | None] = contextvars.ContextVar(
    "owner", default=None
)
"""Where the tasks that are made from here on are noted: see `owned`."""


class _Selector(selectors.SelectSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.seconds += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Timers fire in order without waiting; threads are calls."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._failed: list[asyncio.Task[Any]] = []
        self.set_task_factory(_note_owner)
        self.set_exception_handler(lambda *_: None)  # see unheard

    def time(self) -> float:
        return self._virtual.seconds

    def run_in_executor(self, executor: object, func: Callable[..., T], *args: object) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as e:
            future.set_exception(e)
        return future

    def note_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and getattr(task, "_log_traceback", False):
            self._failed.append(task)

    def unheard(self) -> list[BaseException | None]:
        """Exceptions of tasks that nobody has asked for."""
        return [t.exception() for t in self._failed if getattr(t, "_log_traceback", False)]

    def pass_time(self, seconds: float = A_MOMENT_SECONDS) -> None:
        """Run what is ready, and the timers of the next seconds."""
        self.call_later(seconds, self.stop)
        self.run_forever()


class LoopClock:
    """The loop's time as the agent's clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()


def owned(
    loop: VirtualLoop, work: Coroutine[Any, Any, T], *, by: set[asyncio.Task[Any]]
) -> asyncio.Task[T]:
    """Start work whose task, and the tasks that it starts, are in `by` while they run."""
    context = contextvars.copy_context()
    context.run(OWNER.set, by)
    return loop.create_task(work, context=context)


def _note_owner(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T] | Generator[Any, None, T],
    *,
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    task = asyncio.Task(work, loop=loop, context=context)
    if isinstance(loop, VirtualLoop):
        task.add_done_callback(loop.note_failure)
    tasks = (context or contextvars.copy_context()).get(OWNER)
    if tasks is not None:
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    return task
