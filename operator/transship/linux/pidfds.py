"""Processes by handle (pidfd_open(2)): a handle cannot come to mean another process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNAL = re.compile(r"^(?:SIG)?([A-Z]+[12]?|\d+)([+-]\d+)?$")


@contextmanager
def handle(pid: int | None) -> Iterator[int | None]:
    """A descriptor for a process; None when there is none, or when it is gone."""
    descriptor = None
    with contextlib.suppress(ProcessLookupError):
        descriptor = None if pid is None else os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def send(process: int | None, number: int) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)


async def ended(process: int | None, *, timeout_seconds: float) -> bool:
    """Wait until a process has ended: its descriptor becomes readable then."""
    if process is None:
        return True
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(process, event.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    except TimeoutError:
        return False
    else:
        return True
    finally:
        loop.remove_reader(process)


def signal_number(name: str) -> int:
    """SIGTERM, TERM, 15, SIGRTMIN+3: whatever images and users write. Raises ValueError."""
    match = _SIGNAL.match(name.upper())
    if match is None:
        raise ValueError(f"{name!r} is not the name of a signal")
    word, offset = match.groups()
    if word.isdigit():
        return int(word)
    try:
        return signal.Signals[f"SIG{word}"] + int(offset or 0)
    except KeyError:
        raise ValueError(f"{name!r} is not the name of a signal") from None
