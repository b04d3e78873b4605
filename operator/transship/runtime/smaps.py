"""What a process has mapped, in the words of /proc/PID/maps and smaps. Pure.

The kernel counts every page of a process for its smaps (8 ms for 256 MiB); of all that CRIU wants
only the line `VmFlags`. maps is made without counting, but does not have it. So the flags are read
while the process runs, and put to its maps when it stands still.

Flags that change meanwhile without a trace in maps are those of madvise(2) and mlock(2): what they
advise is then restored as it was at the survey, a moment before. Memory is not affected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass

FLAGS = "VmFlags:"
_HEADING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")

NOT_LAZY_FLAGS = frozenset({"lo", "ht", "dp", "io", "pf", "ss"})
"""Locked, huge, droppable, a device's, a shadow stack's: CRIU deals with their pages itself."""

_KERNELS = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]")


@dataclass(frozen=True, slots=True)
class Area:
    """One line of /proc/PID/maps."""

    line: str
    start: int
    end: int
    access: str
    inode: str
    name: str

    @property
    def is_anonymous(self) -> bool:
        return self.inode == "0" and self.access.endswith("p") and self.name not in _KERNELS

    def is_like(self, other: Area) -> bool:
        """Whether it may be the other one, grown, shrunk, or joined with a neighbour."""
        same = (self.access, self.inode, self.name) == (other.access, other.inode, other.name)
        return same and self.start < other.end and other.start < self.end


def area(line: str) -> Area:
    fields = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in fields[0].split("-"))
    return Area(line, start, end, fields[1], fields[4], fields[5] if len(fields) == 6 else "")


def lines(text: str) -> list[str]:
    """Ended by a newline alone: a file's name may have any other character."""
    return text.rstrip("\n").split("\n") if text else []


Survey = Map[str, str]
"""The line of flags of each line of maps, as they were at one moment."""


def survey(smaps: str) -> Survey:
    found: dict[str, str] = {}
    heading = ""
    for line in lines(smaps):
        if line.startswith(FLAGS):
            found[heading] = line
        elif _HEADING.match(line):
            heading = line
    return found


def flagged(maps: str, known: Survey) -> tuple[tuple[Area, str], ...] | None:
    """Each area with its line of flags; None when those of one cannot be known.

    Neighbours are joined by the kernel only when their flags are the same, so a mapping that has
    grown has those of what it has grown from.
    """
    found = []
    for line in lines(maps):
        one = area(line)
        flags = known.get(line) or _inherited(one, known)
        if flags is None:
            return None
        found.append((one, flags))
    return tuple(found)


def _inherited(one: Area, known: Survey) -> str | None:
    if not one.is_anonymous:
        return None
    flags = {known[line] for line in known if one.is_like(area(line))}
    return flags.pop() if len(flags) == 1 else None


def text(areas: Sequence[tuple[Area, str]]) -> str:
    """As smaps, without the counts."""
    return "".join(f"{one.line}\n{flags}\n" for one, flags in areas)


def hidden(
    areas: Sequence[tuple[Area, str]], *, shown: Sequence[int], page_bytes: int
) -> tuple[tuple[int, int], ...]:
    """Ranges whose pages CRIU would leave to be restored lazily, without the `shown` pages."""
    found = []
    for one, flags in areas:
        if not one.is_anonymous or NOT_LAZY_FLAGS & set(flags.split()):
            continue
        start = one.start
        for page in sorted(shown):
            if start <= page < one.end:
                found.append((start, page))
                start = page + page_bytes
        found.append((start, one.end))
    return tuple((start, end) for start, end in found if start < end)
