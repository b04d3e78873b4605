"""Which memory areas CRIU leaves to a lazy restore, and what it sees when they are hidden. Pure.

CRIU learns the areas of a process from /proc/PID/smaps. Of each area it reads the first line and
the line VmFlags.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transship.linux import smaps
from transship.linux.mappings import Area

NOT_LAZY_FLAGS = frozenset({"lo", "ht", "dp", "io", "pf", "ss"})
"""Locked, huge, droppable, of a device (io, pf), a shadow stack: CRIU dumps their pages itself."""

GROWS_DOWN = "gd"
LEAST_CUT_BYTES = 4 << 20
"""Shorter areas keep their length."""


@dataclass(frozen=True)
class HiddenMappings:
    """What CRIU is to see of a process.

    `smaps` is the text that it reads. In the ranges `hidden` (start, end) it finds no pages. `ends`
    has the true end, by start, of each area that is cut short in `smaps`: CRIU allocates memory for
    every page that an area could have.
    """

    smaps: str
    hidden: tuple[tuple[int, int], ...]
    ends: Mapping[int, int]


def is_lazy(area: Area, flags: Collection[str]) -> bool:
    """Whether CRIU leaves the pages of an area to be restored lazily."""
    return area.is_anonymous and NOT_LAZY_FLAGS.isdisjoint(flags)


def bytes_in_images(text: str) -> int:
    """Count the private memory that a lazy dump writes to its images all the same, from smaps."""
    return sum(
        entry.private_bytes
        for entry in smaps.entries(text)
        if not is_lazy(entry.area, entry.flags) and not entry.area.is_shared
    )


def hidden_mappings(
    areas: Sequence[tuple[Area, str]], *, visible: Sequence[int], page_bytes: int
) -> HiddenMappings:
    """Hide all lazy memory except the pages at the addresses `visible`."""
    hidden: list[tuple[int, int]] = []
    ends: dict[int, int] = {}
    lines: list[str] = []
    for area, flags_line in areas:
        flags, heading = set(flags_line.split()), area.line
        if is_lazy(area, flags):
            pages = [page for page in sorted(visible) if area.start <= page < area.end]
            hidden += _gaps(area, pages, page_bytes)
            cut = (pages[-1] if pages else area.start) + page_bytes
            if area.end - cut >= LEAST_CUT_BYTES and GROWS_DOWN not in flags:
                ends[area.start] = area.end
                heading = _shortened(heading, cut)
        lines.append(f"{heading}\n{flags_line}\n")
    return HiddenMappings("".join(lines), tuple(hidden), ends)


def _gaps(area: Area, pages: Sequence[int], page_bytes: int) -> Iterator[tuple[int, int]]:
    """The ranges of an area between some of its pages."""
    start = area.start
    for page in (*pages, area.end):
        if start < page:
            yield start, page
        start = page + page_bytes


def _shortened(line: str, end: int) -> str:
    addresses, _, rest = line.partition(" ")
    return f"{addresses.partition('-')[0]}-{end:x} {rest}"
