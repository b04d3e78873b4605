"""Reads which pages a lazy dump has left for the restore to request, from its page maps.

A `pagemap-<pid>.img` is two magic numbers and then messages, each after its length: a head, and an
entry for each range of pages. The pages of a lazy entry are not in the images.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from transship.common.errors import TransshipError
from transship.criu.rpc import number_field, number_in, parse
from transship.linux.page_scan import PAGE_BYTES

COMMON_MAGIC = 0x54564319
PAGEMAP_MAGIC = 0x56084025
LAZY = 1 << 1
PRESENT = 1 << 2

_NAME = re.compile(r"pagemap-(\d+)\.img")
_HEADER = struct.Struct("<II")
_LENGTH = struct.Struct("<I")

# a field of pagemap_head
_PAGES_ID = 1
# fields of pagemap_entry
_ADDRESS, _PAGES_32, _FLAGS, _PAGES = 1, 2, 4, 5


@dataclass(frozen=True)
class LazyRange:
    """Adjacent pages; `process` is a pid inside the container."""

    process: int
    address: int
    pages: int


@dataclass(frozen=True)
class SharedImage:
    """A file with pages of shared memory; `runs` are first page and count, in the file's order."""

    path: Path
    runs: tuple[tuple[int, int], ...]

    @property
    def pages(self) -> int:
        return sum(pages for _, pages in self.runs)


def read(images: Path) -> tuple[LazyRange, ...]:
    """Read the lazy ranges of all processes of a dump. Raises TransshipError."""
    ranges: list[LazyRange] = []
    for path in sorted(images.glob("pagemap-*.img")):
        # those of shared memory are pagemap-shmem-<id>.img
        name = _NAME.fullmatch(path.name)
        if name is not None:
            ranges += lazy_ranges(path.read_bytes(), process=int(name[1]))
    return tuple(ranges)


def shared(images: Path) -> tuple[SharedImage, ...]:
    """Find the files with pages of shared memory, memfds included. Raises TransshipError."""
    shared_images = []
    for path in sorted(images.glob("pagemap-shmem-*.img")):
        try:
            head, *entries = map(parse, _messages(path.read_bytes()))
        except (ValueError, IndexError, struct.error) as e:
            raise TransshipError(f"reading {path.name}: malformed image") from e
        if all(number_in(entry, _FLAGS) == PRESENT for entry in entries):
            runs = tuple(
                (number_in(entry, _ADDRESS) // PAGE_BYTES, _pages(entry)) for entry in entries
            )
            image = SharedImage(images / f"pages-{number_in(head, _PAGES_ID)}.img", runs)
            if image.path.exists() and image.path.stat().st_size == image.pages * PAGE_BYTES:
                shared_images.append(image)
    return tuple(shared_images)


def lazy_ranges(image: bytes, *, process: int) -> list[LazyRange]:
    """Return the lazy ranges in one process's image. Raises TransshipError."""
    try:
        entries = list(_messages(image))[1:]
        return [
            LazyRange(process, number_in(entry, _ADDRESS), _pages(entry))
            for entry in map(parse, entries)
            if number_in(entry, _FLAGS) & (LAZY | PRESENT) == LAZY
        ]
    except (ValueError, IndexError, struct.error) as e:
        raise TransshipError(f"reading the pagemap of process {process}: malformed image") from e


def with_lazy(image: bytes, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Return the image with more ranges (start and end address) of lazy pages.

    Entries are sorted by address, as a restore needs them. Raises TransshipError.
    """
    try:
        head, *entries = _messages(image)
        by_address = [(number_in(parse(entry), _ADDRESS), entry) for entry in entries]
    except (ValueError, IndexError, struct.error) as e:
        raise TransshipError("reading a pagemap: malformed image") from e
    by_address += [(start, _lazy_entry(start, end)) for start, end in ranges]
    by_address.sort(key=itemgetter(0))
    parts = [_HEADER.pack(COMMON_MAGIC, PAGEMAP_MAGIC), _LENGTH.pack(len(head)), head]
    for _, entry in by_address:
        parts += (_LENGTH.pack(len(entry)), entry)
    return b"".join(parts)


def _lazy_entry(start: int, end: int) -> bytes:
    return b"".join((
        number_field(_ADDRESS, start),
        # the proto file still requires it
        number_field(_PAGES_32, 0),
        number_field(_FLAGS, LAZY),
        number_field(_PAGES, (end - start) // PAGE_BYTES),
    ))  # fmt: skip


def _pages(entry: dict[int, int | bytes]) -> int:
    """The number of pages; CRIU before 4.2 has the field of 32 bits only."""
    return number_in(entry, _PAGES) or number_in(entry, _PAGES_32)


def _messages(image: bytes) -> Iterator[bytes]:
    if _HEADER.unpack_from(image) != (COMMON_MAGIC, PAGEMAP_MAGIC):
        raise ValueError(image[: _HEADER.size])
    at = _HEADER.size
    while at < len(image):
        (size,) = _LENGTH.unpack_from(image, at)
        at += _LENGTH.size
        if at + size > len(image):
            raise ValueError(size)
        yield image[at : at + size]
        at += size
