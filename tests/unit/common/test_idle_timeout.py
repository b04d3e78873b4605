from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from fakes.agent_loop import VirtualLoop
from transship.common.errors import Unreachable
from transship.common.idle_timeout import Progress, cancel_if_fails, idle_timeout


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


async def _wait(seconds: float, progress: Progress | None) -> None:
    async with idle_timeout(10.0, progress):
        await asyncio.sleep(seconds)


def outcome(loop: VirtualLoop, seconds: float, progress: Progress | None) -> object:
    task = loop.create_task(_wait(seconds, progress))
    for _ in range(200):
        loop.pass_time(1.0)
    return task.exception()


def stops_after(looks: int) -> Progress:
    numbers = count()

    async def progress() -> int:
        return min(next(numbers), looks)

    return progress


def test_without_progress_it_is_a_deadline(loop: VirtualLoop) -> None:
    assert outcome(loop, 9.0, None) is None
    assert isinstance(outcome(loop, 11.0, None), TimeoutError)


def test_what_goes_on_may_take_any_time(loop: VirtualLoop) -> None:
    assert outcome(loop, 150.0, stops_after(1000)) is None


def test_what_stands_still_is_over_so_long_after_its_last_progress(loop: VirtualLoop) -> None:
    stands_still_at = 3 * 10.0 / 3
    assert outcome(loop, stands_still_at + 8.0, stops_after(3)) is None
    assert isinstance(outcome(loop, stands_still_at + 15.0, stops_after(3)), TimeoutError)


def test_who_cannot_tell_has_no_more_time(loop: VirtualLoop) -> None:
    async def progress() -> int:
        raise Unreachable("it has ended")

    assert isinstance(outcome(loop, 11.0, progress), TimeoutError)


async def _fail(after: float) -> None:
    await asyncio.sleep(after)
    raise Unreachable("it has ended")


async def _work(seconds: float, log: list[str]) -> int:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        await asyncio.sleep(1.0)
        log.append("cleaned up")
        raise
    return 1


def test_work_is_given_up_when_what_it_needs_fails(loop: VirtualLoop) -> None:
    log: list[str] = []
    task = loop.create_task(cancel_if_fails(_work(10.0, log), _fail(2.0)))
    loop.pass_time(4.0)
    assert isinstance(task.exception(), Unreachable)
    assert log == ["cleaned up"]


@pytest.mark.parametrize("other", [_fail(20.0), asyncio.sleep(2.0), asyncio.sleep(20.0)])
def test_work_that_gets_done_has_its_result(loop: VirtualLoop, other: Any) -> None:
    task = loop.create_task(cancel_if_fails(_work(10.0, []), other))
    loop.pass_time(11.0)
    assert task.result() == 1
