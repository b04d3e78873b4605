"""Finds changed pages by reading all pages again and comparing their digests.

It needs neither the kernel's help nor a change in the process. Every private page is a candidate
in each round, and those whose digest differs are sent again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from transship.linux.pages import PAGE_BYTES, PageRange, Piece
from transship.linux.pages import pieces as pieces_of
from transship.linux.process_memory import private_pages
from transship.linux.processes import Process
from transship.memory.tracking.page_digests import PageDigests, digests


class DigestTracker:
    """Keeps a digest of each page that was sent."""

    def __init__(self) -> None:
        self._digests: defaultdict[tuple[int, int], PageDigests] = defaultdict(PageDigests)

    def candidates(self, process: Process) -> tuple[PageRange, ...]:
        return private_pages(process)

    def final_candidates(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> tuple[PageRange, ...]:
        return tuple(ranges)

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        return ()  # all of the memory would be read twice

    def count_changed(self, process: Process) -> int | None:
        return None

    def differing(self, ranges: Sequence[PageRange], data: bytearray) -> bytes | None:
        view = memoryview(data)
        marks: list[bytes] = []
        at = 0
        for one in ranges:
            for piece in pieces_of(one):
                marks.append(self._compare(piece, view[at : at + piece.pages * PAGE_BYTES]))
                at += piece.pages * PAGE_BYTES
        return b"".join(marks)

    def _compare(self, piece: Piece, view: memoryview) -> bytes:
        known, new = self._digests[piece.chunk], digests(view)
        changed = known.differing(piece.first, new)
        known.note(piece.first, new)
        return changed

    def forget(self, pid: int) -> None:
        """Take all pages of a process for changed. `pid` is its pid in the container."""
        for chunk in [chunk for chunk in self._digests if chunk[0] == pid]:
            del self._digests[chunk]

    def close(self) -> None:
        self._digests.clear()
