"""A failed end-to-end test has one second try, and a run has few of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from second_try import MAX_SECOND_TRIES, Attempt, run_pytest, run_tests

PASSED = Attempt(0, {})


class FakePytest:
    """Returns prepared attempts, one after the other, and keeps the arguments."""

    def __init__(self, *attempts: Attempt) -> None:
        self._attempts = iter(attempts)
        self.arguments: list[list[str]] = []

    def run(self, arguments: Sequence[str]) -> Attempt:
        self.arguments.append(list(arguments))
        return next(self._attempts)


def outcome(*attempts: Attempt) -> tuple[int, list[str], list[list[str]]]:
    """The exit code, the reported lines, and the arguments of each run of pytest."""
    lines: list[str] = []
    fake = FakePytest(*attempts)
    code = run_tests(["tests/e2e"], run=fake.run, report=lines.append)
    return code, lines, fake.arguments


def failed(count: int) -> Attempt:
    return Attempt(1, {f"test_a.py::test_{number}": f"late {number}" for number in range(count)})


def test_a_run_that_passes_has_no_second_try() -> None:
    code, lines, arguments = outcome(PASSED)
    assert (code, arguments) == (0, [["tests/e2e"]])
    assert lines == ["end-to-end tests: passed, without a second try"]


def test_failed_tests_alone_are_run_again_and_are_named_with_their_first_failure() -> None:
    code, lines, arguments = outcome(failed(2), PASSED)
    assert code == 0
    assert arguments[1] == ["test_a.py::test_0", "test_a.py::test_1"]
    assert lines[0].startswith("end-to-end tests: passed, 2 tests at the second try")
    assert lines[1:] == [
        "  test_a.py::test_0: first failure: late 0",
        "  test_a.py::test_1: first failure: late 1",
    ]


def test_a_test_that_fails_twice_fails_the_run() -> None:
    code, lines, _ = outcome(failed(1), Attempt(1, {"test_a.py::test_0": "late again"}))
    assert code == 1
    assert lines[0].startswith("end-to-end tests: FAILED, 1 test had a second try")
    assert lines[1:] == [
        "  test_a.py::test_0: first failure: late 0",
        "  test_a.py::test_0: second failure: late again",
    ]


def test_as_many_failures_as_a_run_may_have_are_tried_again() -> None:
    code, _, arguments = outcome(failed(MAX_SECOND_TRIES), PASSED)
    assert (code, len(arguments)) == (0, 2)


def test_one_failure_more_fails_the_run_without_a_second_try() -> None:
    code, lines, arguments = outcome(failed(MAX_SECOND_TRIES + 1))
    assert (code, len(arguments)) == (1, 1)
    assert "6 tests failed and at most 5 may need a second try" in lines[0]
    assert len(lines) == 1 + MAX_SECOND_TRIES + 1


@pytest.mark.parametrize("exit_code", [2, 3, 4, 5, -9])
def test_a_run_that_did_not_get_to_its_end_is_not_repeated(exit_code: int) -> None:
    code, lines, arguments = outcome(Attempt(exit_code, {"test_a.py::test_0": "late"}))
    assert (code, len(arguments)) == (exit_code, 1)
    assert "FAILED" in lines[0]


def test_a_failure_without_a_failed_test_is_not_repeated() -> None:
    code, _, arguments = outcome(Attempt(1, {}))
    assert (code, len(arguments)) == (1, 1)


TESTS = """
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("no lab")

def test_good():
    pass

@pytest.mark.parametrize("node", ["node-a", "node b"])
def test_bad(node):
    assert node == "", "not in time\\nand more"

def test_without_lab(broken):
    pass
"""


def test_pytest_itself_records_each_failed_test_with_its_node_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    monkeypatch.chdir(tmp_path)
    # the plugins of this environment take most of the time
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    attempt = run_pytest(["-q", "-p", "no:cacheprovider", "test_some.py"])
    assert attempt == Attempt(
        1,
        {
            "test_some.py::test_bad[node-a]": "AssertionError: not in time",
            "test_some.py::test_bad[node b]": "AssertionError: not in time",
            "test_some.py::test_without_lab": "in setup: RuntimeError: no lab",
        },
    )
    assert run_pytest(["-q", "test_some.py::test_good"]) == PASSED
