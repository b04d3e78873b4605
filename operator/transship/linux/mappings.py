"""Which files processes have in memory such that they can change them without a system call.

A store through a shared, writable mapping moves the file's times only at the first touch after a
writeback, so the times cannot say whether the file has changed since it was copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SHARED_MEMORY = ("/dev/zero (deleted)", "/memfd:", "/SYSV")
"""What mappings of memory that processes share, and that has no file, are called:
MAP_SHARED | MAP_ANONYMOUS, memfd_create(2), shmget(2). It is copied ahead while it is mapped."""
LEAST_SHARED_PAGES = 256
"""Of such memory: less goes whole with CRIU's images, which costs less than looking at it."""


def shared_writable(maps: str) -> frozenset[str]:
    """Paths, as the process sees them, of shared writable mappings in /proc/PID/maps (proc(5))."""
    found = set()
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1][1] == "w" and fields[1][3] == "s":  # noqa: SIM102
            if fields[5].startswith("/") and not fields[5].endswith(" (deleted)"):
                found.add(fields[5])
    return frozenset(found)


def mapped_files(pids: Iterable[int]) -> frozenset[str]:
    """The same for all these processes; one that has ended meanwhile maps nothing."""
    found: set[str] = set()
    for pid in pids:
        try:
            found |= shared_writable(Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return frozenset(found)
