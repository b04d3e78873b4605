"""With real children: what is tested is what the kernel and asyncio make of them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from transship.common.errors import CommandFailed, DeadlineExceeded
from transship.common.processes import run

LONG_SECONDS = 5


async def gone(pid: int) -> bool:
    """Within a moment. A zombie counts: whoever is to reap it may be slow."""
    for _ in range(200):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] != "Z":
                await asyncio.sleep(0.01)
                continue
        return True
    return False


async def test_both_streams_and_a_bad_status_are_told() -> None:
    done = await run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    with pytest.raises(CommandFailed) as caught:
        await run(["sh", "-c", "echo no >&2; exit 3"])
    assert caught.value.status == 3


async def test_past_the_deadline_a_helper_that_holds_the_pipes_ends_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await run(["sh", "-c", f"sleep {LONG_SECONDS} & echo $! > {note}; wait"], timeout_seconds=1)
    assert time.monotonic() - began < LONG_SECONDS / 2
    assert await gone(int(note.read_text()))


async def test_nobody_waits_for_the_pipes_of_one_that_has_left_the_session(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = f"setsid sh -c 'echo $$ > {note}; exec sleep {LONG_SECONDS}' & wait"
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await run(["sh", "-c", program], timeout_seconds=1)
    assert time.monotonic() - began < LONG_SECONDS / 2
    os.kill(int(note.read_text()), signal.SIGKILL)
    assert await gone(int(note.read_text()))
    await asyncio.sleep(0.05)  # the loop sees the ends of its pipes


async def test_a_call_that_is_cancelled_leaves_nothing_running(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = f"sleep {LONG_SECONDS} & echo $! > {note}.new; mv {note}.new {note}; wait"
    running = asyncio.create_task(run(["sh", "-c", program]))
    while not note.exists():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running], timeout=LONG_SECONDS / 2)
    assert running.cancelled()
    assert await gone(int(note.read_text()))
