from __future__ import annotations

import errno
import os

import pytest

from transship.linux import ptrace
from transship.linux.pages import PAGE_BYTES

SIZE = 32
BASE = 0x7FFC_0000_0000


@pytest.mark.parametrize("offset", [0, 8, 16, 100, 2048, PAGE_BYTES - 40, PAGE_BYTES - 16, 4095])
def test_data_for_a_call_stays_in_the_page_that_the_stack_is_in(offset: int) -> None:
    """The next one may still be on its way from another node."""
    place = ptrace._room_in_page(BASE + offset, SIZE)
    assert place % 16 == 0
    assert BASE <= place <= BASE + PAGE_BYTES - SIZE


def test_a_page_that_is_still_arriving_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[OSError | bytes] = [
        OSError(errno.EIO, "missing"),
        OSError(errno.EIO, "missing"),
        b"there",
    ]

    def pread(_memory: int, _size: int, _place: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "pread", pread)
    assert ptrace._read_arrived(3, 5, BASE) == b"there"


def test_one_that_does_not_come_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def pread(_memory: int, _size: int, _place: int) -> bytes:
        raise OSError(errno.EIO, "missing")

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(ptrace, "START_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(OSError, match="missing"):
        ptrace._read_arrived(3, 5, BASE)
