"""How far the copy of a container's memory has come, and what a handover now would take. Pure.

The predicted blackout has two parts: what a handover takes on this node besides memory, and the
time to send the remaining memory, as far as that does not overlap with the first part.
"""

from __future__ import annotations

from dataclasses import dataclass

from transship.api.placement import Strategy
from transship.linux.pages import PAGE_BYTES

DEFAULT_DOWNTIME_SECONDS = 0.3
"""The longest blackout where the user sets no limit: the default downtime limit of QEMU."""
DEFAULT_MEMORY_SECONDS = 0.2
"""On a node whose handovers are slow, memory may add this much to the blackout all the same."""
OVERHEAD_SECONDS = 0.002
"""Of the final copy besides its pages: the scan and the flush."""
SLOWEST_LINK = 1e5
"""Bytes per second, assumed where no round was large enough to measure the link."""


@dataclass(frozen=True)
class CopyRound:
    """What one round sent, and how much had changed again at its end.

    pages: all pages that it sent. content_bytes: those that are not zeros, before compression.
    bytes: on the wire. rate: bytes per second that the link carries without a bandwidth limit, 0
    if unknown. remaining_pages: None where only reading the pages would tell.
    """

    pages: int
    bytes: int
    seconds: float
    rate: float
    remaining_pages: int | None = None
    content_bytes: int = 0

    @property
    def achieved_rate(self) -> float:
        """Bytes per second over the whole round."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class HandoverCost:
    """What a handover takes besides memory, in seconds.

    overlap: the part of `fixed` during which the last pages are sent at the same time.
    measured: by this agent, in earlier handovers; otherwise it is the default.
    """

    fixed: float
    overlap: float
    measured: bool = True


DEFAULT_HANDOVER_COST = HandoverCost(fixed=0.15, overlap=0.07, measured=False)
"""Of one small container on the machines that this was developed on."""


@dataclass(frozen=True)
class ExpectedHandover:
    """What a handover now would take: seconds, the bytes of all rounds, and the calculation."""

    blackout: float
    bytes: int
    explanation: str


@dataclass(frozen=True)
class CopyProgress:
    """The input of every decision about the copy. Times are in seconds.

    max_downtime: None where the user sets no limit. post_copy: whether it is allowed.
    cpu_share: the share of its CPU time that the container has now; None where it cannot be
    throttled. bandwidth: bytes per second that rounds may send; None without a limit.
    """

    strategy: Strategy
    rounds: tuple[CopyRound, ...]
    cost: HandoverCost
    elapsed: float
    deadline: float
    max_downtime: float | None = None
    post_copy: bool = False
    cpu_share: float | None = 1.0
    bandwidth: float | None = None

    @property
    def last_round(self) -> CopyRound:
        return self.rounds[-1]

    @property
    def remaining_bytes(self) -> int:
        """What would be sent after the freeze, compressed as the rounds were."""
        pages = self.last_round.remaining_pages
        if pages is None:
            return self.last_round.bytes
        content = sum(one.content_bytes for one in self.rounds)
        compressed = sum(one.bytes for one in self.rounds) / content if content else 1.0
        return round(pages * PAGE_BYTES * min(1.0, compressed))

    @property
    def link_rate(self) -> float:
        """Bytes per second that the link carries: the final copy has no bandwidth limit.

        Under a limit only a burst was measured. It may have been too small to tell, or there was
        none; but the link carries at least what a whole round achieved.
        """
        measured = self.last_round.rate
        rounds = (self.last_round,) if measured else self.rounds
        return max(measured, *(one.achieved_rate for one in rounds), SLOWEST_LINK)

    @property
    def round_rate(self) -> float:
        """Bytes per second of another round."""
        return min(self.link_rate, self.bandwidth or self.link_rate)

    @property
    def final_copy_seconds(self) -> float:
        """How long the remaining memory takes inside the freeze."""
        return OVERHEAD_SECONDS + self.remaining_bytes / self.link_rate

    @property
    def added_seconds(self) -> float:
        """How much longer the blackout is because of the remaining memory."""
        return max(0.0, self.final_copy_seconds - self.cost.overlap)

    @property
    def allowed_blackout(self) -> float:
        """The limit in seconds: the user's, or the default."""
        if self.max_downtime is not None:
            return self.max_downtime
        return max(DEFAULT_DOWNTIME_SECONDS, self.cost.fixed + DEFAULT_MEMORY_SECONDS)

    @property
    def fits(self) -> bool:
        """Whether the blackout of a handover now would be within the limit."""
        fixed = self.cost.fixed
        # a default is no reason to refuse a move: the first handover measures the real cost
        if not self.cost.measured:
            fixed = min(fixed, self.allowed_blackout / 2)
        return fixed + self.added_seconds <= self.allowed_blackout

    def expected_handover(self) -> ExpectedHandover:
        """What a handover now would take. There must have been a round."""
        count = "1 round" if len(self.rounds) == 1 else f"{len(self.rounds)} rounds"
        known = "here" if self.cost.measured else "by default"
        return ExpectedHandover(
            blackout=self.cost.fixed + self.added_seconds,
            bytes=sum(one.bytes for one in self.rounds) + self.remaining_bytes,
            explanation=(
                f"{_mebibytes(self.remaining_bytes)} left after {count} at "
                f"{_mebibytes(self.link_rate)}/s take {self.final_copy_seconds * 1e3:.0f} ms; "
                f"the rest of a handover takes {self.cost.fixed * 1e3:.0f} ms {known}, "
                f"{self.cost.overlap * 1e3:.0f} of them at the same time"
            ),
        )


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
