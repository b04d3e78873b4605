from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from transship.linux import processes
from transship.linux.processes import Process, below, lookup


def test_a_process_has_its_own_number_in_its_own_namespace() -> None:
    assert lookup([os.getpid()]) == (Process(inside=os.getpid(), outside=os.getpid()),)


def test_a_process_that_is_gone_is_left_out() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert lookup([child.pid]) == ()


def test_that_a_process_is_gone_is_not_concluded_from_a_shortage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> str:
        raise OSError(errno.EMFILE, "descriptors are short")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(OSError, match="short"):
        lookup([os.getpid()])


def test_the_innermost_of_several_numbers_counts() -> None:
    assert processes.innermost_pid("Name:\tcat\nNSpid:\t300\t12\t1\nNSpgid:\t0\n") == 1


def test_descendants_are_found_over_generations() -> None:
    assert below(1, parents={2: 1, 3: 2, 4: 3, 5: 9}) == (2, 3, 4)
