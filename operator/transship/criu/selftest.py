"""Tests whether this node can dump and restore a process with a TCP connection.

`criu check` proves too little: CRIU 4.1.1 passes it on Linux 6.18 and then fails every dump with a
TCP socket. Here a process is dumped and restored, and then has to use its connection. All of it
runs in namespaces of its own, which end with the test. It takes 0.2 s.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import CommandFailed, DeadlineExceeded
from transship.common.processes import run
from transship.criu import log as criu_log

TIMEOUT_SECONDS = 15.0
SUBJECT = Path(__file__).with_name("selftest_subject.py")
NAMESPACES = ("--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True)
class SelfTest:
    """The result; `reason` of a failure is from CRIU's log."""

    passed: bool
    seconds: float
    reason: Reason = Reason.SELF_TEST_PASSED
    message: str = ""
    hint: str = ""


async def run_selftest(directory: Path) -> SelfTest:
    """Dump and restore a process, with its images in a new directory below this one."""
    began = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix="selftest-") as name:
        work = Path(name)
        command = [sys.executable, "-I", str(SUBJECT), str(work)]
        try:
            await run(["unshare", *NAMESPACES, *command], timeout_seconds=TIMEOUT_SECONDS)
        except DeadlineExceeded as e:
            error = e.message
        except CommandFailed as e:
            error = (e.output.strip().splitlines() or ["no output"])[-1]
        else:
            return SelfTest(passed=True, seconds=time.monotonic() - began)
        return _failed(work, error=error, seconds=time.monotonic() - began)


def _failed(work: Path, *, error: str, seconds: float) -> SelfTest:
    restored = criu_log.read_log(work / "restore.log")
    log = restored or criu_log.read_log(work / "dump.log")
    diagnosis = criu_log.diagnose(log, otherwise=Reason.SELF_TEST_FAILED)
    known = diagnosis.reason is not Reason.SELF_TEST_FAILED
    return SelfTest(
        passed=False,
        seconds=seconds,
        reason=diagnosis.reason,
        message=f"{error}: {diagnosis.message}" if log or known else error,
        hint=diagnosis.hint,
    )
