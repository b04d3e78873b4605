"""A move that is given up while its memory is on its way beside the dump."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from transship.agent.migration.source.memory import OutgoingMemory
from transship.linux.pages import PageRange
from transship.linux.processes import Process
from transship.memory.tracking.tracker import Untracked
from transship.memory.transfer.sender import PageSender


class Slow(Untracked):
    """Does not come to an end before it may."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        self.begun.set()
        self.may_end.wait(20)
        return ()


async def test_it_can_be_closed_when_its_end_was_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    tracker = Slow()
    processes: Sequence[Process] = [Process(1, 1)]
    memory = OutgoingMemory(PageSender(ours), tracker, lambda: processes)
    memory.begin_ahead()
    await asyncio.to_thread(tracker.begun.wait, 20)
    finishing = asyncio.create_task(memory.finish([]))
    await asyncio.sleep(0)
    finishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finishing
    tracker.may_end.set()
    await memory.close()
    theirs.close()
