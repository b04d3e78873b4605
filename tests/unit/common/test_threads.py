"""Threads without which a process is of no use."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import time
from transship.common.threads import begin_for_ever
begin_for_ever(lambda: {work}, name="accepting")
time.sleep(60)
"""


@pytest.mark.parametrize("work", ["None", "1 / 0", "exit()"])
def test_a_process_ends_with_the_thread_that_it_cannot_do_without(work: str) -> None:
    words = [sys.executable, "-c", PROGRAM.format(work=work)]
    assert subprocess.run(words, capture_output=True, timeout=20, check=False).returncode == 1
