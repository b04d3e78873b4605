"""Copies shared memory ahead of the freeze, so that only a part of CRIU's images of it is sent.

CRIU leaves private pages out of its images, but it writes shared memory into them, inside the
freeze. So shared memory is sent over the page stream while the container runs, under pids that no
process has, and a digest of each page is kept. Inside the freeze only those pages of the images are
sent whose digest differs, and the target composes the full images (shared_images). CRIU's dump
alone decides what is in them: this module does not know how such memory is restored.
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
"""The first shared memory has this number as its pid in the page stream: larger than any pid."""
SAMPLES = 16
"""Pages by which the shared memory of an image is identified."""


@dataclass
class _Segment:
    """One shared memory: its number in the page stream, and digests of what was sent of it."""

    number: int
    digests: PageDigests = field(default_factory=PageDigests)


class SharedMemory:
    """The shared memory of one container. Blocking. `copy` and `reduce` must not overlap."""

    def __init__(self, sender: PageSender) -> None:
        self._sender = sender
        self._segments: dict[tuple[str, str], _Segment] = {}
        self._buffer = bytearray(BATCH_PAGES * PAGE_BYTES)

    def copy(self, processes: Sequence[Process]) -> None:
        """Send pages that have changed since the last call, at first all. The container runs."""
        for key, path in _shared_mappings(processes).items():
            number = FIRST_NUMBER + len(self._segments)
            segment = self._segments.setdefault(key, _Segment(number))
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:  # unmapped meanwhile, or not readable: the images have it
                continue
            try:
                for first, pages in _data(fd):
                    self._copy_batch(segment, fd, first, pages)
            finally:
                os.close(fd)
        if self._segments:
            self._sender.flush()

    def _copy_batch(self, segment: _Segment, fd: int, first: int, pages: int) -> None:
        view = memoryview(self._buffer)[: pages * PAGE_BYTES]
        size = os.preadv(fd, [view], first * PAGE_BYTES) // PAGE_BYTES * PAGE_BYTES
        new = digests(view[:size])
        changed = segment.digests.differing(first, new)
        segment.digests.note(first, new)
        for at, count in _runs(changed):
            data = bytearray(view[at * PAGE_BYTES : (at + count) * PAGE_BYTES])
            self._sender.send([_range(segment, first + at, count)], data)

    def reduce(self, images: Sequence[Image]) -> None:
        """Inside the freeze, leave out of CRIU's images the pages that the target has."""
        for image in images:
            if self._segments and image.pages >= LEAST_SHARED_PAGES:
                self._reduce(image)

    def _reduce(self, image: Image) -> None:
        with (
            image.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content,
            memoryview(content) as view,
        ):
            segment = self._origin(image, view)
            if segment is None:
                return
            parts: list[Part] = []
            literals: list[bytes] = []
            at = 0
            for position, pages in image.runs:
                piece = view[at * PAGE_BYTES : (at + pages) * PAGE_BYTES]
                changed = segment.digests.differing(position, digests(piece))
                for first, count, literal in _all_runs(changed):
                    parts.append(Part(position + first, count, literal=literal))
                    if literal:
                        literals.append(bytes(piece[first * PAGE_BYTES :][: count * PAGE_BYTES]))
                at += pages
                piece.release()
        shared_images.replace(image.path, number=segment.number, parts=parts, literals=literals)

    def _origin(self, image: Image, view: memoryview) -> _Segment | None:
        """Identify an image's shared memory by samples: CRIU numbers some kinds in its own way."""
        samples = [
            (position, digests(view[at * PAGE_BYTES : (at + 1) * PAGE_BYTES]))
            for at, position in image.samples(SAMPLES)
        ]
        scores = {
            segment.number: sum(segment.digests.differing(*sample) == b"\0" for sample in samples)
            for segment in self._segments.values()
        }
        best = max(self._segments.values(), key=lambda segment: scores[segment.number])
        return best if scores[best.number] else None


def _shared_mappings(processes: Sequence[Process]) -> dict[tuple[str, str], Path]:
    """Return where each shared memory can be read, by device and inode."""
    paths: dict[tuple[str, str], Path] = {}
    for process in processes:
        folder = Path(f"/proc/{process.outside}")
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in (folder / "maps").read_text(errors="surrogateescape").splitlines():
                fields = line.split(maxsplit=5)
                if len(fields) == 6 and fields[1][3] == "s" and fields[5].startswith(SHARED_MEMORY):
                    start, end = (int(part, 16) for part in fields[0].split("-"))
                    path = folder / "map_files" / f"{start:x}-{end:x}"
                    paths.setdefault((fields[3], fields[4]), path)
    return paths


def _data(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the first page and the number of pages of each batch of data, without holes."""
    at = 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA) // PAGE_BYTES
        except OSError:  # ENXIO: no more
            return
        at = os.lseek(fd, start * PAGE_BYTES, os.SEEK_HOLE)
        for first in range(start, -(-at // PAGE_BYTES), BATCH_PAGES):
            yield first, min(BATCH_PAGES, -(-at // PAGE_BYTES) - first)


def _range(segment: _Segment, first: int, pages: int) -> PageRange:
    return PageRange(segment.number, first * PAGE_BYTES, pages)


def _runs(marks: bytes) -> Iterator[tuple[int, int]]:
    return ((first, count) for first, count, marked in _all_runs(marks) if marked)


def _all_runs(marks: bytes) -> Iterator[tuple[int, int, bool]]:
    """Yield the runs of equal marks: the first, their number, and the mark."""
    at = 0
    while at < len(marks):
        end = marks.find(1 - marks[at], at)
        end = len(marks) if end < 0 else end
        yield at, end - at, bool(marks[at])
        at = end
