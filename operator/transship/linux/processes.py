"""Which processes come from which, and what their pid namespaces call them, by /proc."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of a container: its pid in there, and its pid here."""

    inside: int
    outside: int


def descendants(pid: int) -> tuple[int, ...]:
    """All children of a process, their children and so on, parents first."""
    return below(pid, parents=_parents())


def below(pid: int, *, parents: Mapping[int, int]) -> tuple[int, ...]:
    """The same, from a table of parents by child."""
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return tuple(found[1:])


def named(pids: Iterable[int]) -> tuple[Process, ...]:
    """What each process is called in its own pid namespace; those that are gone are left out.

    Raises OSError where the kernel does not tell: that one is gone is concluded from nothing else.
    """
    found = []
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{pid}/status").read_text()
            found.append(Process(inside=_innermost(status), outside=pid))
    return tuple(found)


def start_time(pid: int) -> int:
    """In ticks since the boot: tells a process from a later one of the same number. OSError."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _innermost(status: str) -> int:
    """The last of NSpid: one number for each pid namespace, from the reader's own inwards."""
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def _parents() -> dict[int, int]:
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = path.read_text().rpartition(")")[2].split()
            table[int(path.parent.name)] = int(after_name[1])
    return table
