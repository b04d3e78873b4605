"""Which pages a lazy dump has left out of its images: those that the restore will ask for. Pure.

A `pagemap-<pid>.img` is two magic numbers and then messages, each after its length: a head, and one
entry for each run of pages. An entry marked lazy has no pages in the images beside it.
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
    """Pages in a row. `process` is a pid as the container counts them."""

    process: int
    address: int
    pages: int


@dataclass(frozen=True)
class SharedImage:
    """A file of pages of shared memory; runs: first position and number, in the file's order."""

    path: Path
    runs: tuple[tuple[int, int], ...]

    @property
    def pages(self) -> int:
        return sum(pages for _, pages in self.runs)


def read(images: Path) -> tuple[LazyRange, ...]:
    """The ranges of all processes in a dump's directory. Raises TransshipError."""
    found = []
    for path in sorted(images.glob("pagemap-*.img")):
        name = _NAME.fullmatch(path.name)  # not of shared memory: pagemap-shmem-<id>.img
        if name is not None:
            found += lazy_ranges(path.read_bytes(), process=int(name[1]))
    return tuple(found)


def shared(images: Path) -> tuple[SharedImage, ...]:
    """The files of pages of shared memory, memfds included. Raises TransshipError."""
    found = []
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
                found.append(image)
    return tuple(found)


def lazy_ranges(image: bytes, *, process: int) -> list[LazyRange]:
    """The ranges of one process's image. Raises TransshipError when it is none."""
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
    """The image with further ranges of lazy pages (from an address to an end) among its entries.

    Entries are in the order of their addresses, which a restore relies on. Raises TransshipError.
    """
    try:
        head, *entries = _messages(image)
        found = [(number_in(parse(entry), _ADDRESS), entry) for entry in entries]
    except (ValueError, IndexError, struct.error) as e:
        raise TransshipError("reading a pagemap: malformed image") from e
    found += [(start, _lazy_entry(start, end)) for start, end in ranges]
    found.sort(key=itemgetter(0))
    parts = [_HEADER.pack(COMMON_MAGIC, PAGEMAP_MAGIC), _LENGTH.pack(len(head)), head]
    for _, entry in found:
        parts += (_LENGTH.pack(len(entry)), entry)
    return b"".join(parts)


def _lazy_entry(start: int, end: int) -> bytes:
    return b"".join((
        number_field(_ADDRESS, start),
        number_field(_PAGES_32, 0),  # still required
        number_field(_FLAGS, LAZY),
        number_field(_PAGES, (end - start) // PAGE_BYTES),
    ))  # fmt: skip


def _pages(entry: dict[int, int | bytes]) -> int:
    """CRIU before 4.2 knew the number of 32 bits only."""
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
