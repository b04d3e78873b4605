"""The command line itself: exit codes and usage, without a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from transship.cli import main


@dataclass(frozen=True)
class Done:
    returncode: object
    stdout: str
    stderr: str


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command, in this very process."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["transship", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return Done(left.value.code, *capsys.readouterr())

    return run


def test_version_is_printed(command: Callable[..., Done]) -> None:
    done = command("--version")
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
    command: Callable[..., Done], words: str, named: str, tmp_path: Path
) -> None:
    done = command(*words.format(folder=tmp_path).split())
    assert done.returncode == 2
    assert named in done.stderr


def test_a_lab_that_does_not_exist_ends_with_1(command: Callable[..., Done]) -> None:
    done = command("lab", "env", "--name", "absent")
    assert done.returncode == 1
    assert "absent" in done.stderr
