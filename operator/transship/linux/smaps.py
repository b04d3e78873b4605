"""What a process has mapped, in the words of /proc/PID/maps and smaps. Pure.

The kernel counts every page of a process for its smaps (8 ms for 256 MiB); of all that CRIU wants
only the line `VmFlags`. maps is made without counting, but does not have it. So the flags are read
while the process runs, and put to its maps when it stands still.

Flags that change meanwhile without a trace in maps are those of madvise(2) and mlock(2): what they
advise is then restored as it was at the survey, a moment before. Memory is not affected.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass

FLAGS = "VmFlags:"
_HEADING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")

NOT_LAZY_FLAGS = frozenset({"lo", "ht", "dp", "io", "pf", "ss"})
"""Locked, huge, droppable, a device's, a shadow stack's: CRIU deals with their pages itself."""

_OWN = frozenset({"Anonymous", "Swap", "Private_Hugetlb"})
"""The lines of smaps that count a process's own pages."""

GROWS_DOWN = "gd"
LEAST_CUT_BYTES = 4 << 20

_KERNELS = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]")


@dataclass(frozen=True, slots=True)
class Area:
    """One line of /proc/PID/maps."""

    line: str
    start: int
    end: int
    access: str
    device: str
    inode: str
    name: str

    @property
    def is_anonymous(self) -> bool:
        return self.inode == "0" and self.access.endswith("p") and self.name not in _KERNELS

    @property
    def is_shared(self) -> bool:
        return self.access.endswith("s")

    @property
    def is_written_copy(self) -> bool:
        """Of a file: what a process writes there is its own."""
        return self.inode != "0" and self.access[1] == "w" and not self.is_shared

    def is_like(self, other: Area) -> bool:
        """Whether it may be the other one, grown, shrunk, or joined with a neighbour."""
        same = (self.access, self.inode, self.name) == (other.access, other.inode, other.name)
        return same and self.start < other.end and other.start < self.end


def area(line: str) -> Area:
    fields = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in fields[0].split("-"))
    name = fields[5] if len(fields) == 6 else ""
    return Area(line, start, end, fields[1], fields[3], fields[4], name)


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


def kept_bytes(smaps: str) -> int:
    """Private memory that a lazy dump has in its images all the same: of files, locked, huge."""
    total = own = 0
    one: Area | None = None
    for line in lines(smaps):
        name, _, value = line.partition(":")
        if _HEADING.match(line):
            one, own = area(line), 0
        elif name in _OWN:
            own += int(value.split()[0]) << 10
        elif line.startswith(FLAGS) and one is not None:
            lazy = one.is_anonymous and not set(line.split()) & NOT_LAZY_FLAGS
            total += 0 if lazy or one.is_shared else own
    return total


@dataclass(frozen=True)
class HiddenMappings:
    """A process as CRIU gets to see it.

    hidden are ranges in which it finds no pages; ends are the true ends, by start, of mappings that
    it is shown the beginning of: it sets memory aside for each page that could be in a mapping.
    """

    smaps: str
    hidden: tuple[tuple[int, int], ...]
    ends: Map[int, int]


def hidden_mappings(
    areas: Sequence[tuple[Area, str]], *, shown: Sequence[int], page_bytes: int
) -> HiddenMappings:
    """Hide what CRIU would leave to be restored lazily, without the `shown` pages."""
    hidden: list[tuple[int, int]] = []
    ends: dict[int, int] = {}
    lines: list[str] = []
    for one, line in areas:
        flags, heading = set(line.split()), one.line
        if one.is_anonymous and not flags & NOT_LAZY_FLAGS:
            seen = [page for page in sorted(shown) if one.start <= page < one.end]
            hidden += _around(one, seen, page_bytes)
            cut = (seen[-1] if seen else one.start) + page_bytes
            if one.end - cut >= LEAST_CUT_BYTES and GROWS_DOWN not in flags:
                ends[one.start] = one.end
                heading = _shortened(heading, cut)
        lines.append(f"{heading}\n{line}\n")
    return HiddenMappings("".join(lines), tuple(hidden), ends)


def _around(one: Area, shown: Sequence[int], page_bytes: int) -> Iterator[tuple[int, int]]:
    start = one.start
    for page in (*shown, one.end):
        if start < page:
            yield start, page
        start = page + page_bytes


def _shortened(line: str, end: int) -> str:
    addresses, _, rest = line.partition(" ")
    return f"{addresses.partition('-')[0]}-{end:x} {rest}"
