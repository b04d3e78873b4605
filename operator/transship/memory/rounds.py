"""What one round of copying memory has measured. Pure: memory.convergence decides from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CopyRound:
    """One round: what it sent, and what had changed again at its end.

    pages: all that it sent. content_bytes: of those that are not zeros, before compression;
    bytes: on the wire. rate: bytes per second on the wire, as far as
    nothing held them back on purpose. remaining_pages: None where only reading them would tell.
    """

    pages: int
    bytes: int
    seconds: float
    rate: float
    remaining_pages: int | None = None
    content_bytes: int = 0
