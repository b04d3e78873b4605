"""A real process each; what a container gets of it on a node: tests/e2e/checkpoint_scenarios.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from transship.runtime import plain_process

ODD = """
import ctypes, os, signal, sys
os.umask(0o077)
os.setpriority(os.PRIO_PROCESS, 0, 3)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
open("/proc/self/coredump_filter", "w").write("0x1")
ctypes.CDLL(None).personality(0x0040000)
ctypes.CDLL(None).prctl(29, 1234567, 0, 0, 0)
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
if os.uname().machine == "x86_64":  # of the C library's own: rt_sigaction(32, SIG_IGN)
    ignore = (ctypes.c_ulong * 8)(1)
    assert ctypes.CDLL(None).syscall(13, 32, ignore, None, 8) == 0
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.execv(sys.argv[1], sys.argv[1:])
"""


def under_odd_values(*command: str) -> str:
    words = [sys.executable, "-c", ODD, *map(str, plain_process.words(command))]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def field(status: str, name: str) -> str:
    return next(line for line in status.splitlines() if line.startswith(f"{name}:")).split()[1]


def test_the_program_gets_ordinary_attributes() -> None:
    status = under_odd_values("/bin/cat", "/proc/self/status")
    assert field(status, "Umask") == "0022"
    assert int(field(status, "SigIgn"), 16) == int(field(status, "SigBlk"), 16) == 0
    files = ("coredump_filter", "personality", "timerslack_ns")
    found = under_odd_values("/bin/cat", *(f"/proc/self/{name}" for name in files)).split()
    assert found == ["00000033", "00000000", "50000"]


def test_it_may_use_every_processor_that_there_is() -> None:
    mask = field(under_odd_values("/bin/cat", "/proc/self/status"), "Cpus_allowed_list")
    own = under_odd_values("/usr/bin/env", "python3", "-c", "import os; print(os.cpu_count())")
    assert int(own) == 1 or mask != "0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root raises its priority again")
def test_its_priority_is_an_ordinary_one() -> None:
    assert under_odd_values("/usr/bin/nice").strip() == "0"


def test_of_the_agents_variables_only_what_finds_programs_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("PATH", "/bin")
    found = plain_process.environment({"ADDED": "1"})
    assert found["PATH"] == "/bin"
    assert found["ADDED"] == "1"
    assert set(found) <= {"PATH", "HOME", "TMPDIR", "ADDED"}


def test_a_program_that_is_not_there_is_named() -> None:
    words = list(map(str, plain_process.words(["/no/such/program"])))
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 127
    assert "/no/such/program: No such file" in done.stderr


def test_a_status_by_signal_is_its_own() -> None:
    words = list(map(str, plain_process.words(["/bin/sh", "-c", "kill -TERM $$"])))
    assert subprocess.run(words, check=False).returncode == -signal.SIGTERM
