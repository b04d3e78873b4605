"""Executes a program with the default attributes of a process instead of the agent's own.

A process inherits more than its environment: the OOM score and CPU affinity of the agent's Pod, the
signals that a shell ignores. runc resets some of it for a container's first process, less for an
exec, and nothing at a restore. CRIU does not restore an attribute with its default value, so the
restored tasks keep CRIU's. Therefore all that becomes a process of a container is started through
this program. Limits and capabilities are set by the bundle (bundle.py).

The agent's Python runs it as a program of its own: standard library only.
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

# no others: runc passes NOTIFY_SOCKET and LISTEN_FDS on to the container
ENVIRONMENT = ("PATH", "HOME", "TMPDIR")

PR_SET_SECUREBITS, PR_SET_TIMERSLACK, PR_SET_THP_DISABLE, PR_SET_MEMORY_MERGE = 28, 29, 41, 67
KEYCTL_JOIN_SESSION_KEYRING = 1
IOPRIO_WHO_PROCESS = 1
# ioprio_set, keyctl, set_mempolicy, rt_sigaction; other machines go without
CALLS = {
    "x86_64": (251, 250, 238, 13),
    "aarch64": (30, 219, 237, 134),
    "ppc64le": (273, 271, 261, 173),
    "s390x": (282, 280, 270, 174),
}

C_LIBRARY_SIGNALS = (32, 33)
"""glibc lets nobody set its own; yet a program inherits that they are ignored."""
SIGACTION_BYTES = 64  # at least as large as the kernel's struct; all zeros mean SIG_DFL

libc = ctypes.CDLL(None)


def words(command: Sequence[str | Path]) -> list[str | Path]:
    """Return the command line that runs a command through this program."""
    return [sys.executable, "-I", "-S", __file__, *command]


def environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the few variables of the agent that a program needs, and `added`."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**kept, **(added or {})}


def reset() -> None:
    """Set the default attributes, as far as this process may."""
    for reset_attribute in RESETS:
        with contextlib.suppress(OSError):
            reset_attribute()


def _signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _umask() -> None:
    os.umask(UMASK)


def _processors() -> None:
    """Allow all CPUs; the kernel omits those that are not in the cpuset."""
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
    """Reset attributes that have no function in Python; an older kernel may lack some."""
    _call(libc.personality, 0)
    _call(libc.prctl, PR_SET_SECUREBITS)
    _call(libc.prctl, PR_SET_TIMERSLACK, TIMER_SLACK_NANOSECONDS)
    _call(libc.prctl, PR_SET_THP_DISABLE)
    _call(libc.prctl, PR_SET_MEMORY_MERGE)
    if (numbers := CALLS.get(os.uname().machine)) is not None:
        ioprio_set, keyctl, set_mempolicy, rt_sigaction = numbers
        _call(libc.syscall, ioprio_set, IOPRIO_WHO_PROCESS)
        _call(libc.syscall, keyctl, KEYCTL_JOIN_SESSION_KEYRING)
        _call(libc.syscall, set_mempolicy)
        default = ctypes.create_string_buffer(SIGACTION_BYTES)
        for number in C_LIBRARY_SIGNALS:
            _call(libc.syscall, rt_sigaction, number, ctypes.addressof(default), 0, 8)


def _call(function: Callable[..., int], *numbers: int) -> None:
    """Call with zeros (default, none, self) for the arguments that are not given."""
    padded = (*numbers, 0, 0, 0, 0)[: max(5, len(numbers))]
    function(*map(ctypes.c_ulong, padded))


RESETS: Sequence[Callable[[], None]] = (
    _umask,
    _processors,
    _scheduling,
    _niceness,
    _out_of_memory_score,
    _core_dumps,
    _by_system_calls,
    # last: Python itself needs SIGPIPE to be ignored
    _signals,
)


def main(command: list[str]) -> int:
    """Become the program; 127 when it cannot be executed, as in a shell."""
    reset()
    try:
        os.execvp(command[0], command)  # noqa: S606
    except OSError as e:
        sys.stderr.write(f"{command[0]}: {e.strerror}\n")
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
