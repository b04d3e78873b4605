"""Hides from CRIU the memory that the agents move themselves.

In a lazy dump CRIU looks at every page of a container and puts it into a pipe that nobody reads:
0.4 us for each page, ten times that on a busy machine. A small library, preloaded into CRIU
(library/hidden_memory.c), shows it large processes without those pages. After the dump they are
added to the images, which are then what they would have been without the library. So a dump takes
the same time whatever the size of the memory. Without the library, or on an older kernel, CRIU
looks at all pages itself.
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
FOLDER_VARIABLE = "TRANSSHIP_HIDDEN_MEMORY"
"""The environment variable by which the library finds its files."""

LEAST_PAGES = 1024
"""Private pages of a process: to hide fewer takes longer (0.5 ms) than CRIU's look at them."""
LEAST_ADDRESSES = 1 << 18
"""Mapped pages, present or not: CRIU allocates memory for each, 10 ns (Go reserves a lot)."""
SURVEY_SHARE = 0.05
"""The share of one CPU for repeating the survey of the running processes."""
SURVEY_SECONDS = 0.25

_RANGE = struct.Struct("=QQ")


Pids = Callable[[], Iterable[int]]
"""Returns the container's processes as they are now."""


class NothingHidden:
    """CRIU sees all memory."""

    environment: Mapping[str, str] = MappingProxyType({})
    """For CRIU."""

    async def start_survey(self) -> None:
        """Start to follow the memory areas of the running processes."""

    def hide(self) -> None:
        """Hide the memory of the processes, which are frozen from here on."""

    async def complete_images(self, images: Path, processes: Iterable[Process]) -> None:
        """Add the hidden memory to the images of the dump."""

    def close(self) -> None:
        """Stop the survey. Can be repeated."""


class HiddenMemory(NothingHidden):
    """The memory of one container, hidden from its dump; `folder` is for the library's files."""

    def __init__(self, folder: Path, pids: Pids) -> None:
        self._folder = folder
        self._pids = pids
        self._surveys: Mapping[int, smaps.Survey] = {}
        self._tasks = Tasks()
        self._surveying: asyncio.Task[None] | None = None
        self._hidden: dict[int, HiddenMappings] = {}
        self._scan: asyncio.Future[dict[int, page_scan.Pages]] | None = None
        self.environment = {"LD_PRELOAD": str(LIBRARY), FOLDER_VARIABLE: str(folder)}

    async def start_survey(self) -> None:
        pause = await asyncio.to_thread(self._survey)
        self._surveying = self._tasks.begin(self._keep_surveying(pause), name="survey memory")

    async def _keep_surveying(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            pause = await asyncio.to_thread(self._survey)

    def _survey(self) -> float:
        """Survey all processes, 8 ms for each 256 MiB; return the seconds until the next survey."""
        began = time.monotonic()
        surveys = {pid: _survey(pid) for pid in self._pids()}
        self._surveys = {pid: survey for pid, survey in surveys.items() if survey is not None}
        return max(SURVEY_SECONDS, (time.monotonic() - began) / SURVEY_SHARE)

    def hide(self) -> None:
        self.close()
        surveys = self._surveys
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for pid in self._pids():
            if pid in surveys and (mappings := _hidden_mappings(pid, surveys[pid])) is not None:
                self._hidden[pid] = mappings
                text = mappings.smaps.encode(errors="surrogateescape")
                (self._folder / f"{pid}.smaps").write_bytes(text)
                ranges = b"".join(_RANGE.pack(start, end) for start, end in mappings.hidden)
                (self._folder / f"{pid}.hidden").write_bytes(ranges)
        self._scan = asyncio.ensure_future(asyncio.to_thread(self.scan))

    def scan(self) -> dict[int, page_scan.Pages]:
        """Find the hidden pages, by pid: 1 ms for each 256 MiB, at the same time as CRIU's dump."""
        return {pid: page_scan.scan(pid, one.hidden) for pid, one in self._hidden.items()}

    async def complete_images(self, images: Path, processes: Iterable[Process]) -> None:
        pages_by_pid = {} if self._scan is None else await self._scan
        for process in processes:
            pages = pages_by_pid.get(process.outside)
            mappings = images / f"mm-{process.inside}.img"
            # processes that share their memory share one image
            if pages is not None and mappings.exists():
                ends = self._hidden[process.outside].ends
                mappings.write_bytes(
                    mm_images.corrected(mappings.read_bytes(), ends=ends, guards=pages.guards)
                )
                page_map = images / f"pagemap-{process.inside}.img"
                page_map.write_bytes(pagemaps.with_lazy(page_map.read_bytes(), pages.present))

    def close(self) -> None:
        if self._surveying is not None:
            self._surveying.cancel()


def hidden_memory(folder: Path, pids: Pids) -> NothingHidden:
    """Return HiddenMemory where this node has the library and the kernel for it."""
    return (
        HiddenMemory(folder, pids)
        if LIBRARY.exists() and page_scan.supported()
        else NothingHidden()
    )


def _hidden_mappings(pid: int, survey: smaps.Survey) -> HiddenMappings | None:
    """None when the survey or the kernel does not tell enough about the process."""
    stack_pages = _stack_pages(pid)
    areas = smaps.flagged(Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape"), survey)
    if areas is None or stack_pages is None:
        return None
    return hidden_mappings(areas, visible=stack_pages, page_bytes=page_scan.PAGE_BYTES)


def _survey(pid: int) -> smaps.Survey | None:
    """None for a process that is small or has ended."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        size, resident, shared = (int(field) for field in fields[:3])
        if resident - shared < LEAST_PAGES and size < LEAST_ADDRESSES:
            return None
        return smaps.survey(Path(f"/proc/{pid}/smaps").read_text(errors="surrogateescape"))
    except OSError:
        return None


def _stack_pages(pid: int) -> list[int] | None:
    """Find the page of each thread's stack pointer, which CRIU always dumps itself.

    None when the kernel does not tell: /proc/PID/syscall has no stack pointer of a running thread.
    """
    mask = ~(page_scan.PAGE_BYTES - 1)
    pages = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "syscall").read_text().split()
        if len(fields) < 3:
            return None
        pages.append(int(fields[-2], 16) & mask)
    return pages
