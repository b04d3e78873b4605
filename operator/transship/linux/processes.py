"""Processes by pid, from /proc: their state, parents, and pids in their own pid namespaces."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

STOPPED_STATES = "Tt"
"""By a signal, by a tracer."""
ENDED_STATES = "ZX"
"""Zombie, dead."""


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """A process: its pid inside its own pid namespace, and outside, where this code runs."""

    inside: int
    outside: int


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that is used; `start_time` is in clock ticks since the boot.

    pid and start time together identify a process: a later one with the same pid started later.
    """

    command: str
    state: str
    parent: int
    start_time: int


def stat(pid: int) -> Stat:
    """Read /proc/PID/stat. Raises OSError when there is no such process."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_text())


def parse_stat(text: str) -> Stat:
    # the command may hold spaces and brackets
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(head.partition("(")[2], fields[0], int(fields[1]), int(fields[19]))


def descendants(pid: int) -> tuple[int, ...]:
    """Return the children of a process, their children and so on, parents first."""
    return below(pid, parents=_parents())


def below(pid: int, *, parents: Mapping[int, int]) -> tuple[int, ...]:
    """Return the same from a table of parents by child."""
    pids = [pid]
    for ancestor in pids:
        pids += [child for child, parent in parents.items() if parent == ancestor]
    return tuple(pids[1:])


def lookup(pids: Iterable[int]) -> tuple[Process, ...]:
    """Find the pid of each process in its own pid namespace; omit those that have ended.

    Raises OSError for any other cause, such as too many open files.
    """
    processes = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/status").read_text()
            processes.append(Process(inside=innermost_pid(status), outside=pid))
    return tuple(processes)


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since the boot. Raises OSError."""
    return stat(pid).start_time


def innermost_pid(status: str) -> int:
    """Read the last of NSpid in a /proc/PID/status: one pid per namespace, the outermost first."""
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def _parents() -> dict[int, int]:
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            table[int(path.parent.name)] = parse_stat(path.read_text()).parent
    return table
