"""The command line itself: exit codes and usage, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = (sys.executable, "-c", "from transship.cli import main; main()")


def transship(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *words], capture_output=True, text=True, check=False, timeout=60)


def test_version_is_printed() -> None:
    done = transship("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("transship 0.")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("no-such-command", "no-such-command"),
        ("lab up --nodes many", "--nodes"),
        ("lab up --nodes 0", "--nodes is 0"),
        ("bench migrate --memory much", "--memory must be a quantity"),
        ("certificates {folder} --node no-address", "--node is 'no-address'"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_what_is_wrong(
    words: str, named: str, tmp_path: Path
) -> None:
    done = transship(*words.format(folder=tmp_path).split())
    assert done.returncode == 2
    assert named in done.stderr


def test_a_lab_that_does_not_exist_ends_with_1() -> None:
    done = transship("lab", "env", "--name", "absent")
    assert done.returncode == 1
    assert "absent" in done.stderr
