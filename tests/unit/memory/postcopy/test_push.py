from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.linux.pages import PageRange
from transship.linux.processes import Process
from transship.memory.postcopy.push import MemoryPush


class TargetWithMissingPages:
    """A target that misses some pages."""

    def __init__(self, pages: Sequence[PageRange]) -> None:
        self.pages = pages

    def ask_missing(self) -> Sequence[PageRange]:
        return self.pages

    def send(self, batch: Sequence[PageRange], buffer: bytearray) -> None:
        raise AssertionError("sent what cannot be had")


def push(processes: Sequence[Process], wanted: PageRange) -> TransshipError:
    sender: Any = TargetWithMissingPages([wanted])
    with pytest.raises(TransshipError) as caught:
        MemoryPush(lambda: processes).push(sender)
    return caught.value


def test_the_pages_of_a_process_that_has_ended_are_lost() -> None:
    failure = push([], PageRange(7, 0x1000, 1))
    assert failure.reason == Reason.PAGES_LOST
    assert "process 7" in failure.message


def test_pages_that_cannot_be_read_are_lost() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            failure = push([Process(7, child.pid)], PageRange(7, 0x1000, 1))
        finally:
            child.kill()
    assert failure.reason == Reason.PAGES_LOST


def test_what_the_kernel_refuses_for_now_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "descriptors are short")

    monkeypatch.setattr(os, "open", refuse)
    sender: Any = TargetWithMissingPages([PageRange(7, 0x1000, 1)])
    with pytest.raises(OSError, match="short"):
        MemoryPush(lambda: [Process(7, 1)]).push(sender)
