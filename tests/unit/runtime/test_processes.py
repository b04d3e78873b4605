from __future__ import annotations

import os
import subprocess

from transship.runtime import processes
from transship.runtime.processes import Process, named


def test_a_process_has_its_own_number_in_its_own_namespace() -> None:
    assert named([os.getpid()]) == (Process(inside=os.getpid(), outside=os.getpid()),)


def test_a_process_that_is_gone_is_left_out() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert named([child.pid]) == ()


def test_the_innermost_of_several_numbers_counts() -> None:
    assert processes._innermost("Name:\tcat\nNSpid:\t300\t12\t1\nNSpgid:\t0\n") == 1
