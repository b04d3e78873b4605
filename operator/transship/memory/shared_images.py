"""CRIU's images of shared memory, reduced by the pages that the target has already.

The source replaces `pages-N.img` by the reduced image `pages-N.img.shared`:

    number u32 (the pid of this memory in the page stream), parts u32
    then `parts` times: position u64, pages u32, literal u32
    then the pages of the literal parts, one after another

Parts that are not literal are in the target's page store, which composes the full image from both.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from transship.common.errors import InvalidInput, TransshipError
from transship.linux.pages import PAGE_BYTES, PageRange
from transship.memory.page_server import page_index
from transship.memory.page_server.page_store import PageStore

SUFFIX = ".shared"

_HEAD = struct.Struct("<II")
_PART = struct.Struct("<QII")


@dataclass(frozen=True)
class Image:
    """A file of pages that CRIU has written.

    runs: the first position in the shared memory and the number of pages, in the file's order.
    """

    path: Path
    runs: tuple[tuple[int, int], ...]

    @property
    def pages(self) -> int:
        return sum(pages for _, pages in self.runs)

    def samples(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield about so many pages: their number in the file, and their position in memory."""
        step, at, start = max(1, self.pages // number), 0, 0
        for position, pages in self.runs:
            while at < start + pages:
                yield at, position + at - start
                at += step
            start += pages


@dataclass(frozen=True)
class Part:
    """Consecutive pages. Literal ones are in the reduced image."""

    position: int
    pages: int
    literal: bool


def replace(path: Path, *, number: int, parts: Sequence[Part], literals: Sequence[bytes]) -> None:
    """Replace an image by its reduced form."""
    packed = [_PART.pack(part.position, part.pages, part.literal) for part in parts]
    with path.with_name(path.name + SUFFIX).open("wb") as file:
        file.writelines(itertools.chain([_HEAD.pack(number, len(parts))], packed, literals))
    path.unlink()


def waiting(folder: Path) -> list[Path]:
    """Return the reduced images in a folder."""
    return sorted(folder.glob(f"pages-*.img{SUFFIX}"))


def compose(folder: Path, store: PageStore) -> None:
    """Compose the full images of a folder. Raises TransshipError if the store misses a page.

    Pages are spent only at the end: a page may be in more than one image.
    """
    used: list[PageRange] = []
    for path in waiting(folder):
        with path.open("rb") as reduced, path.with_suffix("").open("wb") as image:
            used += _compose(reduced, image, store)
        path.unlink()
    for pages in used:
        store.spend(pages)


def _compose(reduced: BinaryIO, image: BinaryIO, store: PageStore) -> list[PageRange]:
    number, count = _HEAD.unpack(_exactly(reduced, _HEAD.size))
    parts = [_PART.unpack(_exactly(reduced, _PART.size)) for _ in range(count)]
    for position, pages, literal in parts:
        if literal:
            image.write(_exactly(reduced, pages * PAGE_BYTES))
            continue
        wanted = PageRange(number, position * PAGE_BYTES, pages)
        for run in store.runs(wanted):
            if run.mark not in {page_index.STORED, page_index.ZERO}:
                raise TransshipError(
                    f"composing images of shared memory: {run.pages} are missing",
                    reason="PagesLost",
                )
            if run.mark == page_index.ZERO:
                image.seek(run.pages.bytes, 1)
            else:
                image.write(store.content(run))
    image.truncate(sum(pages for _, pages, _ in parts) * PAGE_BYTES)
    return [PageRange(number, position * PAGE_BYTES, pages) for position, pages, _ in parts]


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise InvalidInput(
            "reading an image of shared memory: it is truncated", reason="ImagesDamaged"
        )
    return data
