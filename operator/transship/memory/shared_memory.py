"""Memory that processes share: copied ahead, so that of CRIU's images of it only a part has to go.

CRIU leaves private pages to be fetched later; what is shared it writes into its images, inside the
freeze. So it is sent while the container runs, over the page stream, under numbers that no process
has, and a digest of each page is kept. Inside the freeze those pages of the images go that have
another digest, and the target puts the images together (shared_images). What they say is decided
by the dump alone: nothing here needs to know how such memory is restored.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transship.criu.state_size import LEAST_SHARED_PAGES
from transship.linux.mappings import SHARED_MEMORY
from transship.linux.pages import PAGE_BYTES, PageRange
from transship.linux.process_memory import BATCH_PAGES
from transship.linux.processes import Process
from transship.memory import shared_images
from transship.memory.shared_images import Image, Part
from transship.memory.tracking.page_digests import PageDigests, digests
from transship.memory.transfer.sender import PageSender

FIRST_NUMBER = 1 << 30
"""Of the first piece of shared memory, where the page stream has a pid: beyond every pid."""
SAMPLES = 16


@dataclass
class _Known:
    """One piece of shared memory: its number, and what was sent of it."""

    number: int
    digests: PageDigests = field(default_factory=PageDigests)


class SharedMemory:
    """That of one container. Blocking; `copy` and `reduce` not at the same time."""

    def __init__(self, sender: PageSender) -> None:
        self._sender = sender
        self._known: dict[tuple[str, str], _Known] = {}
        self._buffer = bytearray(BATCH_PAGES * PAGE_BYTES)

    def copy(self, processes: Sequence[Process]) -> None:
        """Send what has changed since the last time, while the container runs; at first, all."""
        for key, path in _found(processes).items():
            known = self._known.setdefault(key, _Known(FIRST_NUMBER + len(self._known)))
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # gone meanwhile, or not for us: it goes with the images
                continue
            try:
                for first, pages in _data(fd):
                    self._copy_batch(known, fd, first, pages)
            finally:
                os.close(fd)
        if self._known:
            self._sender.flush()

    def _copy_batch(self, known: _Known, fd: int, first: int, pages: int) -> None:
        view = memoryview(self._buffer)[: pages * PAGE_BYTES]
        size = os.preadv(fd, [view], first * PAGE_BYTES) // PAGE_BYTES * PAGE_BYTES
        new = digests(view[:size])
        changed = known.digests.differing(first, new)
        known.digests.note(first, new)
        for at, count in _runs(changed):
            data = bytearray(view[at * PAGE_BYTES : (at + count) * PAGE_BYTES])
            self._sender.send([_range(known, first + at, count)], data)

    def reduce(self, images: Sequence[Image]) -> None:
        """Inside the freeze: leave of CRIU's images what the target does not have."""
        for image in images:
            if self._known and image.pages >= LEAST_SHARED_PAGES:
                self._reduce(image)

    def _reduce(self, image: Image) -> None:
        with image.path.open("rb") as file, mmap.mmap(
            file.fileno(), 0, prot=mmap.PROT_READ
        ) as content, memoryview(content) as view:  # fmt: skip
            known = self._origin(image, view)
            if known is None:
                return
            parts: list[Part] = []
            literals: list[bytes] = []
            at = 0
            for position, pages in image.runs:
                piece = view[at * PAGE_BYTES : (at + pages) * PAGE_BYTES]
                changed = known.digests.differing(position, digests(piece))
                for first, count, literal in _all_runs(changed):
                    parts.append(Part(position + first, count, literal=literal))
                    if literal:
                        literals.append(bytes(piece[first * PAGE_BYTES :][: count * PAGE_BYTES]))
                at += pages
                piece.release()
        shared_images.replace(image.path, number=known.number, parts=parts, literals=literals)

    def _origin(self, image: Image, view: memoryview) -> _Known | None:
        """The piece that an image is of, by samples: CRIU has numbers of its own for some kinds."""
        samples = [
            (position, digests(view[at * PAGE_BYTES : (at + 1) * PAGE_BYTES]))
            for at, position in image.samples(SAMPLES)
        ]
        scores = {
            known.number: sum(known.digests.differing(*sample) == b"\0" for sample in samples)
            for known in self._known.values()
        }
        best = max(self._known.values(), key=lambda known: scores[known.number])
        return best if scores[best.number] else None


def _found(processes: Sequence[Process]) -> dict[tuple[str, str], Path]:
    """Where each piece can be read, by device and inode."""
    found: dict[tuple[str, str], Path] = {}
    for process in processes:
        folder = Path(f"/proc/{process.outside}")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in (folder / "maps").read_text(errors="surrogateescape").splitlines():
                fields = line.split(maxsplit=5)
                if len(fields) == 6 and fields[1][3] == "s" and fields[5].startswith(SHARED_MEMORY):
                    start, end = (int(part, 16) for part in fields[0].split("-"))
                    path = folder / "map_files" / f"{start:x}-{end:x}"
                    found.setdefault((fields[3], fields[4]), path)
    return found


def _data(fd: int) -> Iterator[tuple[int, int]]:
    """First page and number of pages of what is there, in batches."""
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA) // PAGE_BYTES
        except OSError:  # ENXIO: no more
            return
        at = os.lseek(fd, start * PAGE_BYTES, os.SEEK_HOLE)
        for first in range(start, -(-at // PAGE_BYTES), BATCH_PAGES):
            yield first, min(BATCH_PAGES, -(-at // PAGE_BYTES) - first)


def _range(known: _Known, first: int, pages: int) -> PageRange:
    return PageRange(known.number, first * PAGE_BYTES, pages)


def _runs(marks: bytes) -> Iterator[tuple[int, int]]:
    return ((first, count) for first, count, marked in _all_runs(marks) if marked)


def _all_runs(marks: bytes) -> Iterator[tuple[int, int, bool]]:
    """Runs of equal marks: where, how many, which."""
    at = 0
    while at < len(marks):
        end = marks.find(1 - marks[at], at)
        end = len(marks) if end < 0 else end
        yield at, end - at, bool(marks[at])
        at = end
