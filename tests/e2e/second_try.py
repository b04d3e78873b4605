"""Runs the end-to-end tests and gives those that fail a second try, in a new lab.

    python tests/e2e/second_try.py [PYTEST ARGUMENT]...

On a busy machine a lab may miss a deadline, so a test that passes at the second try is accepted. At
most MAX_SECOND_TRIES tests of a run may need one: more failures are a failure of the run, without a
second try. The last lines name every test that needed one, with its first failure.

The same module is the pytest plugin that records the failures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

MAX_SECOND_TRIES = 5
MAX_MESSAGE_CHARACTERS = 200
OPTION = "--record-failures"


@dataclass(frozen=True)
class Attempt:
    """One run of pytest: its exit code, and the first failure of each failed test by node id."""

    exit_code: int
    failures: Mapping[str, str]


RunPytest = Callable[[Sequence[str]], Attempt]


def run_pytest(arguments: Sequence[str]) -> Attempt:
    """Run pytest in a process of its own, with the plugin."""
    folder = str(Path(__file__).parent)
    path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(prefix="transship-e2e-") as name:
        record = Path(name) / "failures.json"
        command = [sys.executable, "-m", "pytest", "-p", Path(__file__).stem, OPTION, str(record)]
        done = subprocess.run(
            [*command, *arguments], env={**os.environ, "PYTHONPATH": path}, check=False
        )
        failures = json.loads(record.read_text()) if record.exists() else {}
    return Attempt(done.returncode, failures)


def run_tests(arguments: Sequence[str], *, run: RunPytest, report: Callable[[str], None]) -> int:
    """Run the tests, and the failed ones again. Return the exit code for the whole run."""
    first = run(arguments)
    if first.exit_code == pytest.ExitCode.OK:
        report("end-to-end tests: passed, without a second try")
        return 0
    if first.exit_code != pytest.ExitCode.TESTS_FAILED or not first.failures:
        report(f"end-to-end tests: FAILED, pytest ended with exit code {first.exit_code}")
        return first.exit_code
    if len(first.failures) > MAX_SECOND_TRIES:
        report(
            f"end-to-end tests: FAILED, {len(first.failures)} tests failed and at most "
            f"{MAX_SECOND_TRIES} may need a second try"
        )
        _report_each(first.failures, report)
        return first.exit_code
    second = run(list(first.failures))
    for line in _summary(first, second):
        report(line)
    return second.exit_code


def _summary(first: Attempt, second: Attempt) -> Iterator[str]:
    count = len(first.failures)
    tests = "1 test" if count == 1 else f"{count} tests"
    if second.exit_code == pytest.ExitCode.OK:
        yield f"end-to-end tests: passed, {tests} at the second try (limit: {MAX_SECOND_TRIES})"
    else:
        yield f"end-to-end tests: FAILED, {tests} had a second try and not all of them passed"
    for test, message in first.failures.items():
        yield f"  {test}: first failure: {message}"
        if test in second.failures:
            yield f"  {test}: second failure: {second.failures[test]}"


def _report_each(failures: Mapping[str, str], report: Callable[[str], None]) -> None:
    for test, message in failures.items():
        report(f"  {test}: {message}")


class FailureRecorder:
    """Writes the first failure of each test to a file, as soon as it happens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failures: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self._failures:
            self._failures[report.nodeid] = _message(report)
            self._path.write_text(json.dumps(self._failures))


def _message(report: pytest.TestReport) -> str:
    """The first line of the exception, and the phase unless it is the test itself."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else str(crash.message)
    line = next(iter(text.strip().splitlines()), "no message")[:MAX_MESSAGE_CHARACTERS]
    return line if report.when == "call" else f"in {report.when}: {line}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, help="write the failures to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption(OPTION)
    if path is not None:
        config.pluginmanager.register(FailureRecorder(path))


def main(arguments: Sequence[str]) -> int:
    def report(line: str) -> None:
        print(line, flush=True)

    return run_tests(arguments, run=run_pytest, report=report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
