"""The memory areas of a process with their VmFlags, from /proc/PID/smaps. Pure.

To print smaps the kernel counts every page of the process (8 ms for 256 MiB); maps is printed
without counting, but has no flags. `survey` reads the flags from smaps while the process runs, and
`flagged` adds them to the maps of the same process when it is stopped.

Only madvise(2) and mlock(2) change flags without a trace in maps. Flags that they change after the
survey are missed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from transship.linux.mappings import Area, lines, parse_area

FLAGS = "VmFlags:"
_HEADING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")

_PRIVATE = frozenset({"Anonymous", "Swap", "Private_Hugetlb"})
"""The lines that count a process's own pages."""

Survey = Mapping[str, str]
"""The line VmFlags of each area by its line in maps, at one moment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An area with its flags, and how much of it is the process's own."""

    area: Area
    flags: frozenset[str]
    private_bytes: int


def entries(smaps: str) -> Iterator[Entry]:
    """Parse a /proc/PID/smaps."""
    area: Area | None = None
    private_bytes = 0
    for line in lines(smaps):
        name, _, value = line.partition(":")
        if _HEADING.match(line):
            area, private_bytes = parse_area(line), 0
        elif name in _PRIVATE:
            private_bytes += int(value.split()[0]) << 10
        elif line.startswith(FLAGS) and area is not None:
            yield Entry(area, frozenset(line.split()[1:]), private_bytes)


def survey(smaps: str) -> Survey:
    """Read the flags of every area from smaps."""
    flags: dict[str, str] = {}
    heading = ""
    for line in lines(smaps):
        if line.startswith(FLAGS):
            flags[heading] = line
        elif _HEADING.match(line):
            heading = line
    return flags


def flagged(maps: str, known: Survey) -> tuple[tuple[Area, str], ...] | None:
    """Pair each area of maps with its VmFlags line; None when the survey does not tell one.

    The kernel joins neighbours only when their flags are equal, so an area that has grown has the
    flags of the area that it has grown from.
    """
    pairs = []
    for line in lines(maps):
        area = parse_area(line)
        flags = known.get(line) or _inherited(area, known)
        if flags is None:
            return None
        pairs.append((area, flags))
    return tuple(pairs)


def _inherited(area: Area, known: Survey) -> str | None:
    if not area.is_anonymous:
        return None
    flags = {known[line] for line in known if area.may_continue(parse_area(line))}
    return flags.pop() if len(flags) == 1 else None
