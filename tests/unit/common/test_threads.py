"""Threads without which a process is of no use."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from transship.common import threads
from transship.common.errors import DeadlineExceeded
from transship.common.threads import may_hang

PROGRAM = """
import time
from transship.common.threads import start_essential_thread
start_essential_thread(lambda: {work}, name="accepting")
time.sleep(60)
"""


@pytest.mark.parametrize("work", ["None", "1 / 0", "exit()"])
def test_a_process_ends_with_the_thread_that_it_cannot_do_without(work: str) -> None:
    words = [sys.executable, "-c", PROGRAM.format(work=work)]
    assert subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 1


@pytest.fixture
def server() -> Iterator[threading.Event]:
    """Of a share: it answers once the event is set."""
    back = threading.Event()
    yield back
    back.set()


async def test_shares_whose_servers_are_away_take_no_thread_that_others_need(
    server: threading.Event,
) -> None:
    hanging = [
        asyncio.create_task(may_hang(server.wait, doing="looking", timeout_seconds=60))
        for _ in range(20)
    ]
    assert await asyncio.to_thread(lambda: "done") == "done"
    server.set()
    assert await asyncio.gather(*hanging) == [True] * 20


async def test_what_hangs_is_given_up_and_counted_until_it_ends(
    server: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MAX_ABANDONED", 1)
    with pytest.raises(DeadlineExceeded, match=r"looking for it: no answer within 0\.01 s"):
        await may_hang(server.wait, doing="looking for it", timeout_seconds=0.01)
    with pytest.raises(DeadlineExceeded, match="1 earlier calls still wait"):
        await may_hang(server.wait, doing="looking for it", timeout_seconds=0.01)
    server.set()
    while threads._abandoned:  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0)
    assert await may_hang(lambda: 7, doing="looking for it", timeout_seconds=60) == 7


async def test_what_fails_there_fails_here() -> None:
    with pytest.raises(ZeroDivisionError):
        await may_hang(lambda: 1 // 0, doing="dividing", timeout_seconds=60)
