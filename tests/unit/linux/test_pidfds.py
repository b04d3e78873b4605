from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from transship.linux import pidfds


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGUSR1", signal.SIGUSR1),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3), ("SIGRTMAX-1", signal.SIGRTMAX - 1),
    ],
)  # fmt: skip
def test_signals_are_read_in_every_spelling(name: str, number: int) -> None:
    assert pidfds.signal_number(name) == number


@pytest.mark.parametrize("name", ["", "SIGNOTHING", "TERM+", "-1", "SIG TERM"])
def test_other_words_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a signal"):
        pidfds.signal_number(name)


@pytest.fixture
def child() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        signal.pause()
    yield pid
    os.waitpid(pid, 0)


async def test_the_end_of_a_process_is_seen(child: int) -> None:
    with pidfds.handle(child) as process:
        assert not await pidfds.ended(process, timeout_seconds=0)
        pidfds.send(process, signal.SIGKILL)
        assert await pidfds.ended(process, timeout_seconds=5)
        pidfds.send(process, signal.SIGKILL)


async def test_a_process_that_is_gone_has_ended() -> None:
    with pidfds.handle(2**22 + 1) as process:
        assert process is None
        assert await pidfds.ended(process, timeout_seconds=5)
