"""What a tracker of changed pages does, and the one that takes every page for changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transship.linux.pages import PageRange
from transship.linux.process_memory import data_of, private_pages
from transship.linux.processes import Process


class Tracker(Protocol):
    """Knows which pages may differ from what was sent.

    Each round calls `candidates`, reads these pages, passes their content to `differing`, and sends
    the pages that differ. What changes after `candidates` is a candidate of the next round.
    """

    def candidates(self, process: Process) -> tuple[PageRange, ...]:
        """Pages of a running process that may have changed; all pages in its first round."""
        ...

    def final_candidates(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> tuple[PageRange, ...]:
        """Candidates of a frozen process. Only those in `ranges` matter, there may be others."""
        ...

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        """Those of a frozen process's candidates that its dump leaves alone, as far as is known.

        They are asked for beside the dump; what is missing among them is found by final_candidates.
        """
        ...

    def count_changed(self, process: Process) -> int | None:
        """How many pages would be candidates now; None where only reading them would tell."""
        ...

    def differing(self, ranges: Sequence[PageRange], data: bytearray) -> bytes | None:
        """A byte per page of `data`, 1 where the page is to be sent. None: send all of them."""
        ...

    def close(self) -> None: ...


class Untracked:
    """Takes every page for changed, every time: for a copy without rounds."""

    def candidates(self, process: Process) -> tuple[PageRange, ...]:
        return private_pages(process)

    def final_candidates(
        self, process: Process, ranges: Sequence[PageRange]
    ) -> tuple[PageRange, ...]:
        return tuple(ranges)

    def candidates_during_dump(self, process: Process) -> tuple[PageRange, ...]:
        return private_pages(process, data_of(process))

    def count_changed(self, process: Process) -> int | None:
        return None

    def differing(self, ranges: Sequence[PageRange], data: bytearray) -> bytes | None:
        return None

    def close(self) -> None:
        pass
