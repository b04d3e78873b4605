"""Which processes come from which, by /proc."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path


def descendants(pid: int) -> tuple[int, ...]:
    """All children of a process, their children and so on, parents first."""
    return below(pid, parents=_parents())


def below(pid: int, *, parents: Mapping[int, int]) -> tuple[int, ...]:
    """The same, from a table of parents by child."""
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return tuple(found[1:])


def _parents() -> dict[int, int]:
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = path.read_text().rpartition(")")[2].split()
            table[int(path.parent.name)] = int(after_name[1])
    return table
