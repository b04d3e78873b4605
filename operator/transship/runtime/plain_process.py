"""Becomes another program, with the attributes that a node gives a process and not the agent's own.

fork and exec hand down far more than an environment: the OOM score and CPU affinity of the agent's
Pod, what somebody's shell ignores. runc sets a part of it for a container's first process, less for
a command in it, nothing at a restore, where CRIU writes none of what has its default value: its
tasks keep what they got from CRIU. So whatever becomes a container's process is started through
this. Limits and capabilities are the bundle's (bundle.py).

Run by the agent's Python as a program of its own: standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

UMASK = 0o022
# the kernel's defaults
OOM_SCORE_ADJ = "0"
COREDUMP_FILTER = "0x33"
TIMER_SLACK_NANOSECONDS = 50_000

# runc hands a container what these variables of its own name: NOTIFY_SOCKET, LISTEN_FDS
ENVIRONMENT = ("PATH", "HOME", "TMPDIR")

PR_SET_SECUREBITS, PR_SET_TIMERSLACK, PR_SET_THP_DISABLE, PR_SET_MEMORY_MERGE = 28, 29, 41, 67
KEYCTL_JOIN_SESSION_KEYRING = 1
IOPRIO_WHO_PROCESS = 1
# ioprio_set, keyctl, set_mempolicy (not on every machine)
CALLS = {
    "x86_64": (251, 250, 238),
    "aarch64": (30, 219, 237),
    "ppc64le": (273, 271, 261),
    "s390x": (282, 280, 270),
}

libc = ctypes.CDLL(None)


def words(command: Sequence[str | Path]) -> list[str | Path]:
    """The command line that runs a command so."""
    return [sys.executable, "-I", "-S", __file__, *command]


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Of the agent's variables those that a program needs to find others, and what is added."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**kept, **(added or {})}


def reset() -> None:
    """Take on the ordinary attributes, as far as this process may."""
    for each in RESETS:
        with contextlib.suppress(OSError):
            each()


def _signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _umask() -> None:
    os.umask(UMASK)


def _processors() -> None:
    """All there are; the kernel leaves out what the cpuset does not have."""
    os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))


def _scheduling() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _niceness() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 0)


def _out_of_memory_score() -> None:
    Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)


def _core_dumps() -> None:
    Path("/proc/self/coredump_filter").write_text(COREDUMP_FILTER)


def _by_system_calls() -> None:
    """A kernel that lacks one of these has nothing to reset."""
    _call(libc.personality, 0)
    _call(libc.prctl, PR_SET_SECUREBITS)
    _call(libc.prctl, PR_SET_TIMERSLACK, TIMER_SLACK_NANOSECONDS)
    _call(libc.prctl, PR_SET_THP_DISABLE)
    _call(libc.prctl, PR_SET_MEMORY_MERGE)
    if (numbers := CALLS.get(os.uname().machine)) is not None:
        ioprio_set, keyctl, set_mempolicy = numbers
        _call(libc.syscall, ioprio_set, IOPRIO_WHO_PROCESS)
        _call(libc.syscall, keyctl, KEYCTL_JOIN_SESSION_KEYRING)
        _call(libc.syscall, set_mempolicy)


def _call(function: Callable[..., int], *numbers: int) -> None:
    """With zeros (default, none, oneself) for all that is not given."""
    padded = (*numbers, 0, 0, 0, 0)[:5]
    function(*map(ctypes.c_ulong, padded))


RESETS: Sequence[Callable[[], None]] = (
    _umask,
    _processors,
    _scheduling,
    _niceness,
    _out_of_memory_score,
    _core_dumps,
    _by_system_calls,
    _signals,  # last: Python ignores SIGPIPE for itself
)


def main(command: list[str]) -> int:
    reset()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        sys.stderr.write(f"{command[0]}: {e.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
