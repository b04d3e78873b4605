"""What one round of copying memory has measured. Pure: plan.convergence decides from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CopyRound:
    """One round: what it sent, and what had changed again at its end.

    pages: all that it sent, zero_pages those of them that took no room. content_bytes: of the
    others, before compression; bytes: on the wire. rate: bytes per second on the wire, as far as
    nothing held them back on purpose. left_pages: None where only reading them would tell.
    """

    pages: int
    bytes: int
    seconds: float
    rate: float
    left_pages: int | None = None
    zero_pages: int = 0
    content_bytes: int = 0
