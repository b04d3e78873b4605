"""The memory areas of a process, as /proc/PID/maps lists them (proc_pid_maps(5))."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = ("/dev/zero (deleted)", "/memfd:", "/SYSV")
"""How the names of shared memory without a file begin: MAP_SHARED | MAP_ANONYMOUS, memfd_create(2),
shmget(2)."""

_KERNEL_AREAS = ("[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]")


@dataclass(frozen=True, slots=True)
class Area:
    """One memory area: a line of /proc/PID/maps and its fields."""

    line: str
    start: int
    end: int
    access: str
    device: str
    inode: str
    name: str

    @property
    def is_anonymous(self) -> bool:
        """Private and without a file; the kernel's own areas are not."""
        return self.inode == "0" and self.access.endswith("p") and self.name not in _KERNEL_AREAS

    @property
    def is_shared(self) -> bool:
        return self.access.endswith("s")

    @property
    def is_writable_copy(self) -> bool:
        """A writable private mapping of a file: pages that the process has written are its own."""
        return self.inode != "0" and self.access[1] == "w" and not self.is_shared

    def may_continue(self, other: Area) -> bool:
        """Whether this may be the other area, grown, shrunk, or joined with a neighbour."""
        same = (self.access, self.inode, self.name) == (other.access, other.inode, other.name)
        return same and self.start < other.end and other.start < self.end


def parse_area(line: str) -> Area:
    """Parse a line of maps, or the first line of an entry in smaps."""
    fields = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in fields[0].split("-"))
    name = fields[5] if len(fields) == 6 else ""
    return Area(line, start, end, fields[1], fields[3], fields[4], name)


def lines(text: str) -> list[str]:
    """Split maps or smaps at newlines alone: the name of a file may have any other character."""
    return text.rstrip("\n").split("\n") if text else []


def areas(maps: str) -> tuple[Area, ...]:
    """Parse a /proc/PID/maps."""
    return tuple(map(parse_area, lines(maps)))


def shared_writable_files(maps: str) -> frozenset[str]:
    """Return the paths of the files that have a shared writable mapping.

    A process changes such a file without a system call. A store moves the file's times only at the
    first touch after a writeback, so the times do not show whether the file has changed. Paths are
    as the process sees them.
    """
    return frozenset(
        area.name
        for area in areas(maps)
        if area.is_shared
        and area.access[1] == "w"
        and area.name.startswith("/")
        and not area.name.endswith(" (deleted)")
    )


def shared_writable_files_of(pids: Iterable[int]) -> frozenset[str]:
    """Return the same for several processes; one that has ended has no mappings."""
    paths: set[str] = set()
    for pid in pids:
        try:
            maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
        except (FileNotFoundError, ProcessLookupError):
            continue
        paths |= shared_writable_files(maps)
    return frozenset(paths)
