"""Background tasks: none of them ends without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
from loguru import logger

from transship.common import tasks
from transship.common.errors import NotFound
from transship.common.tasks import (
    Background,
    TaskEnded,
    Tasks,
    cancel_when_set,
    for_each,
    restart_on_failure,
)


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """What the log says."""
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), format="{level} {message} {extra}")
    yield lines
    logger.remove(sink)


async def for_ever() -> None:
    await asyncio.Event().wait()


async def at_once() -> None:
    pass


async def broken() -> None:
    raise RuntimeError("nobody thought of this")


async def cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("work", [at_once, broken, cancelled])
async def test_a_task_that_is_to_live_for_ever_ends_its_process_when_it_ends(
    work: tasks.Work, log_lines: list[str]
) -> None:
    stop = asyncio.Event()
    background = Background(stop)
    background.keep(for_ever, name="watch")
    background.keep(work, name="lease")
    async with asyncio.timeout(2):
        await stop.wait()
    with pytest.raises(TaskEnded, match="lease"):
        background.raise_failure()
    assert any("ERROR" in line and "lease" in line for line in log_lines)
    await background.close()


async def test_one_that_is_ended_with_its_process_is_no_failure(log_lines: list[str]) -> None:
    stop = asyncio.Event()
    background = Background(stop)
    background.keep(for_ever, name="watch")
    await background.close()
    background.raise_failure()
    assert not stop.is_set()
    assert log_lines == []


async def test_a_task_with_an_end_of_its_own_that_fails_is_told_of(log_lines: list[str]) -> None:
    beside = Tasks()
    await asyncio.wait([beside.begin(broken(), name="settling"), beside.begin(at_once(), name="x")])
    assert len(beside) == 0
    assert [("settling" in line, "nobody thought" in line) for line in log_lines] == [(True, True)]


async def test_work_that_fails_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "RESTART_SECONDS", 0)
    begun: list[int] = []

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise OSError(24, "descriptors are short")

    async with asyncio.timeout(5):
        await restart_on_failure(work, name="work")
    assert begun == [0, 1, 2]


async def test_what_is_begun_anew_after_failures_ends_its_process_when_it_returns() -> None:
    stop = asyncio.Event()
    background = Background(stop)
    background.keep(partial(restart_on_failure, at_once, name="exits"), name="exits")
    async with asyncio.timeout(2):
        await stop.wait()
    with pytest.raises(TaskEnded, match="exits"):
        background.raise_failure()


async def test_one_item_that_fails_keeps_no_other_from_its_turn(log_lines: list[str]) -> None:
    done = []

    async def work(item: str) -> None:
        if item == "a":
            raise NotFound("a is gone")
        if item == "b":
            raise KeyError(item)
        done.append(item)

    await for_each("abc", work, doing="looking")
    assert done == ["c"]
    assert [line.split()[0] for line in log_lines] == ["ERROR", "ERROR"]


async def test_work_is_cancelled_when_it_is_time_to_stop() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)
    async with asyncio.timeout(2):
        await cancel_when_set(stop, for_ever())
        await cancel_when_set(stop, for_ever())


async def test_what_the_work_fails_with_is_raised() -> None:
    with pytest.raises(RuntimeError):
        await cancel_when_set(asyncio.Event(), broken())
