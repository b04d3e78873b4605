"""Keeps CRIU from looking at memory that the agents move themselves.

In a lazy dump CRIU looks at every page of a container and puts it into a pipe, from which nobody
takes it: 0.4 us for each, on a busy machine ten times that. A small library, preloaded into CRIU
(veil_library/veil.c), shows it the large processes without those pages. Afterwards they are put
into its images, which are then what they would have been: a dump takes the same time whatever the
memory. Where library or kernel do not offer that, CRIU does all of it by itself.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from transship.common.tasks import Tasks
from transship.criu.hidden_memory.mappings import HiddenMappings, hidden_mappings
from transship.criu.images import mm as mm_images
from transship.criu.images import pagemap as pagemaps
from transship.linux import page_scan, smaps
from transship.linux.processes import Process

LIBRARY = Path("/usr/local/lib/transship-hidden-memory.so")

LEAST_PAGES = 1024
"""Of a process's own: below, drawing the veil (0.5 ms) takes longer than looking."""
LEAST_ADDRESSES = 1 << 18
"""In pages, used or not: CRIU sets memory aside for each, 10 ns (Go and Java reserve a lot)."""
SURVEY_SHARE = 0.05
"""Of one processor, for keeping what is known of the running processes fresh."""
SURVEY_SECONDS = 0.25

_RANGE = struct.Struct("=QQ")


Pids = Callable[[], Iterable[int]]
"""The container's processes as they are now."""


class NothingHidden:
    """Where CRIU is to see everything."""

    environment: Mapping[str, str] = MappingProxyType({})

    async def begin(self) -> None:
        """Begin to follow what the running processes have mapped."""

    def draw(self) -> None:
        """Hide the memory of the processes, which stand still from here on."""

    async def lift(self, images: Path, processes: Iterable[Process]) -> None:
        """Put what was hidden into the images of the dump."""

    def close(self) -> None:
        """Follow the processes no more. Can be repeated."""


class HiddenMemory(NothingHidden):
    """The veil over one container: survey while it runs, draw when frozen, lift after the dump."""

    def __init__(self, folder: Path, pids: Pids) -> None:
        self._folder = folder
        self._pids = pids
        self._known: Mapping[int, smaps.Survey] = {}
        self._tasks = Tasks()
        self._surveying: asyncio.Task[None] | None = None
        self._drawn: dict[int, HiddenMappings] = {}
        self._looking: asyncio.Future[dict[int, page_scan.Found]] | None = None
        self.environment = {"LD_PRELOAD": str(LIBRARY), "TRANSSHIP_VEIL": str(folder)}

    async def begin(self) -> None:
        pause = await asyncio.to_thread(self._survey)
        self._surveying = self._tasks.begin(self._keep_surveying(pause), name="survey memory")

    async def _keep_surveying(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            pause = await asyncio.to_thread(self._survey)

    def _survey(self) -> float:
        """Returns when it is to be repeated. 8 ms for each 256 MiB."""
        began = time.monotonic()
        self._known = {pid: seen for pid in self._pids() if (seen := _survey(pid)) is not None}
        return max(SURVEY_SECONDS, (time.monotonic() - began) / SURVEY_SHARE)

    def draw(self) -> None:
        self.close()
        known = self._known
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._drawn = {
            pid: drawn
            for pid in self._pids()
            if pid in known and (drawn := _veiled(pid, known[pid])) is not None
        }
        for pid, drawn in self._drawn.items():
            text = drawn.smaps.encode(errors="surrogateescape")
            (self._folder / f"{pid}.smaps").write_bytes(text)
            ranges = b"".join(_RANGE.pack(*one) for one in drawn.hidden)
            (self._folder / f"{pid}.hidden").write_bytes(ranges)
        self._looking = asyncio.ensure_future(asyncio.to_thread(self.look))

    def look(self) -> dict[int, page_scan.Found]:
        """What is hidden. 1 ms for each 256 MiB, beside CRIU's dump."""
        return {pid: page_scan.scan(pid, one.hidden) for pid, one in self._drawn.items()}

    async def lift(self, images: Path, processes: Iterable[Process]) -> None:
        found = {} if self._looking is None else await self._looking
        for one in processes:
            mappings = images / f"mm-{one.inside}.img"
            # there is one for all processes that share their memory
            if one.outside in found and mappings.exists():
                pages, ends = found[one.outside], self._drawn[one.outside].ends
                corrected = mm_images.corrected(
                    mappings.read_bytes(), ends=ends, guards=pages.guards
                )
                mappings.write_bytes(corrected)
                page_map = images / f"pagemap-{one.inside}.img"
                page_map.write_bytes(pagemaps.with_lazy(page_map.read_bytes(), pages.pages))

    def close(self) -> None:
        if self._surveying is not None:
            self._surveying.cancel()


def over(folder: Path, pids: Pids) -> NothingHidden:
    """What library and kernel of this node offer."""
    return (
        HiddenMemory(folder, pids)
        if LIBRARY.exists() and page_scan.supported()
        else NothingHidden()
    )


def _veiled(pid: int, known: smaps.Survey) -> HiddenMappings | None:
    shown = _stack_pages(pid)
    areas = smaps.flagged(Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape"), known)
    if areas is None or shown is None:
        return None
    return hidden_mappings(areas, visible=shown, page_bytes=page_scan.PAGE_BYTES)


def _survey(pid: int) -> smaps.Survey | None:
    """None for a process that is small, or has ended."""
    try:
        words = Path(f"/proc/{pid}/statm").read_text().split()
        size, resident, shared = (int(word) for word in words[:3])
        if resident - shared < LEAST_PAGES and size < LEAST_ADDRESSES:
            return None
        return smaps.survey(Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape"))
    except OSError:
        return None


def _stack_pages(pid: int) -> list[int] | None:
    """The page of each thread's stack that is in use, which CRIU always dumps itself.

    None when the kernel does not tell: a thread that runs has no such thing.
    """
    mask = ~(page_scan.PAGE_BYTES - 1)
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        words = (task / "syscall").read_text().split()
        if len(words) < 3:
            return None
        found.append(int(words[-2], 16) & mask)
    return found
