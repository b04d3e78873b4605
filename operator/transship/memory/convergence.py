"""What a source does next with a container's memory, from its copying rounds so far. Pure.

The measure of everything is the predicted blackout: what a handover takes here besides memory (the
agent's own experience), and what is left of the memory at the measured rate, as far as it does not
pass beside the rest. The agent acts on it
(agent.migration.source.precopy); `transship plan` plays it through.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from transship import strategies
from transship.api.obstacle import Obstacle, obstacle
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.linux.pages import PAGE_BYTES
from transship.memory.rounds import CopyRound

DOWNTIME_SECONDS = 0.3
"""The blackout to keep to where nobody has said: what QEMU allows a virtual machine."""
MEMORY_SECONDS = 0.2
"""On a node whose handovers are slow the memory may add this much all the same."""
UNNOTICED_SECONDS = 0.01
EASY_SHARE = 0.1
"""What takes longer than both together, the latter of the time beside the rest of a handover, is
worth another round where nobody has said what is good enough: a restore that waits for its last
pages shows in full, a round more in nothing."""
OVERHEAD_SECONDS = 0.002
"""Of the last part besides the pages: the scan, the flush."""
MIN_SHRINK = 0.9
"""What is left after a round has to be less than this share of what the round has sent."""
MAX_ROUNDS = 30
"""Without slowing it down, a container that has not come to rest by then will not."""
SLOWEST_LINK = 1e5
"""Bytes per second, where a round was too small to tell."""

SLOWER_EACH_TIME = 0.7
"""The next share of its CPU that a container is slowed to, at most, of the present one."""
SLOWEST = 0.01
"""QEMU's auto-converge ends there too."""
CALM = 0.5
"""The share of the link's rate that a container should write at, to come to rest within rounds."""


SHRINKS_NO_MORE = "what is left shrinks no more"


@dataclass(frozen=True)
class Cost:
    """What a handover takes besides the memory, in seconds.

    beside: the part of it in which the last pages are on their way at the same time.
    measured: it is this agent's experience, not the default.
    """

    fixed: float
    beside: float
    measured: bool = True


DEFAULT_COST = Cost(fixed=0.15, beside=0.07, measured=False)
"""Of one small container on the machines that this was written on."""


class Act(Enum):
    """What to do with the memory now."""

    ROUND = auto()
    HAND_OVER = auto()
    POST_COPY = auto()
    SLOW_DOWN = auto()
    FAIL = auto()


@dataclass(frozen=True)
class Seen:
    """All that a decision is made from. Times in seconds.

    max_downtime: None where nobody has said. post_copy: it is allowed.
    share: of its CPU time that the container is left now; None where it cannot be slowed down.
    limit: bytes per second that the rounds may send.
    """

    strategy: Strategy
    rounds: tuple[CopyRound, ...]
    cost: Cost
    elapsed: float
    deadline: float
    max_downtime: float | None = None
    post_copy: bool = False
    share: float | None = 1.0
    limit: float | None = None

    @property
    def last(self) -> CopyRound:
        return self.rounds[-1]


@dataclass(frozen=True)
class Expected:
    """What a handover now would be like: seconds, bytes in all, the sum in words."""

    blackout: float
    bytes: int
    explanation: str


@dataclass(frozen=True)
class Decision:
    """share: what to leave the container of its CPU time (SLOW_DOWN). why: for FAIL."""

    act: Act
    message: str = ""
    share: float = 1.0
    why: Obstacle | None = None


def decide(seen: Seen) -> Decision:
    """The one thing to do now."""
    if not seen.rounds:
        return Decision(Act.ROUND)
    if is_good(seen):
        return Decision(Act.HAND_OVER, _slowed(seen))
    if _another_helps(seen):
        return Decision(Act.ROUND, _slowed(seen))
    if not strategies.of(seen.strategy).keeps_downtime_limit:
        return Decision(Act.HAND_OVER, SHRINKS_NO_MORE)
    return _last_resort(seen)


def expected(seen: Seen) -> Expected:
    """What it would be like to hand over now; some round must have been."""
    left, seconds = left_bytes(seen), memory_seconds(seen)
    blackout = seen.cost.fixed + max(0.0, seconds - seen.cost.beside)
    known = "here" if seen.cost.measured else "by default"
    return Expected(
        blackout=blackout,
        bytes=sum(one.bytes for one in seen.rounds) + left,
        explanation=(
            f"{_mebibytes(left)} left after {_rounds(seen)} at {_mebibytes(_rate(seen))}/s take "
            f"{seconds * 1e3:.0f} ms; the rest of a handover takes {seen.cost.fixed * 1e3:.0f} ms "
            f"{known}, {seen.cost.beside * 1e3:.0f} of them at the same time"
        ),
    )


def allowed_seconds(seen: Seen) -> float:
    """The blackout that must not be exceeded."""
    if seen.max_downtime is not None:
        return seen.max_downtime
    return max(DOWNTIME_SECONDS, seen.cost.fixed + MEMORY_SECONDS)


def memory_seconds(seen: Seen) -> float:
    """How long the last part of the memory takes inside the freeze."""
    return OVERHEAD_SECONDS + left_bytes(seen) / _rate(seen)


def left_bytes(seen: Seen) -> int:
    """What would go over the wire after the freeze."""
    left = seen.last.remaining_pages
    if left is None:
        return seen.last.bytes
    content = sum(one.content_bytes for one in seen.rounds)
    share = min(1.0, sum(one.bytes for one in seen.rounds) / content) if content else 1.0
    return round(left * PAGE_BYTES * share)


def _rate(seen: Seen) -> float:
    """What the link carries: the limit, which the last part is free of, tells nothing of that.

    Under a limit only a burst was measured, which may have been too small to tell, or none at all;
    but the link carries at least what a whole round came to.
    """
    measured = seen.last.rate
    rounds = (seen.last,) if measured else seen.rounds
    return max(measured, *map(_achieved, rounds), SLOWEST_LINK)


def _achieved(done: CopyRound) -> float:
    return done.bytes / done.seconds if done.seconds > 0 else 0.0


def _fits(seen: Seen) -> bool:
    fixed = seen.cost.fixed
    # a default is no reason to refuse what somebody wants: the first handover will tell
    if not seen.cost.measured:
        fixed = min(fixed, allowed_seconds(seen) / 2)
    return fixed + _added_seconds(seen) <= allowed_seconds(seen)


def _added_seconds(seen: Seen) -> float:
    """What the memory adds to the blackout."""
    return max(0.0, memory_seconds(seen) - seen.cost.beside)


def is_good(seen: Seen) -> bool:
    """Good enough to hand over at once."""
    if seen.max_downtime is not None:
        return _fits(seen)
    return memory_seconds(seen) <= UNNOTICED_SECONDS + EASY_SHARE * seen.cost.beside


def _another_helps(seen: Seen) -> bool:
    """Whether one more round leaves less, and ends in time."""
    if len(seen.rounds) >= MAX_ROUNDS or not _shrinks(seen):
        return False
    pace = min(_rate(seen), seen.limit or _rate(seen))
    return seen.elapsed + left_bytes(seen) / pace + allowed_seconds(seen) < seen.deadline


def _shrinks(seen: Seen) -> bool:
    last = seen.last
    if last.remaining_pages is not None:
        return last.remaining_pages < MIN_SHRINK * last.pages
    return len(seen.rounds) < 2 or last.pages < MIN_SHRINK * seen.rounds[-2].pages


def _last_resort(seen: Seen) -> Decision:
    """Rounds alone will not make it any better."""
    if _fits(seen):
        return Decision(Act.HAND_OVER, _slowed(seen) or f"{SHRINKS_NO_MORE}, and fits")
    if seen.cost.fixed > allowed_seconds(seen) and seen.cost.measured:
        return _fail(seen, "even without any memory")
    if seen.post_copy:
        return Decision(Act.POST_COPY, f"PostCopy: {_too_long(seen)}")
    share = slower(seen)
    if share is None:
        return _fail(seen, "and it writes on however slow it is")
    return Decision(Act.SLOW_DOWN, share=share, message=_slowing(seen, share))


def slower(seen: Seen) -> float | None:
    """The share of its CPU time to slow the container to; None when that is of no use any more.

    A container is taken to write as fast as it runs.
    """
    if seen.share is None or seen.share <= SLOWEST or seen.elapsed >= seen.deadline:
        return None
    written = left_bytes(seen) / max(seen.last.seconds, 1e-3)
    calm = CALM * min(_rate(seen), seen.limit or _rate(seen)) / max(written, 1.0)
    return max(SLOWEST, seen.share * min(SLOWER_EACH_TIME, calm))


def _fail(seen: Seen, because: str) -> Decision:
    why = obstacle(Reason.DOWNTIME_TOO_LONG, f"{_too_long(seen)}, {because}")
    return Decision(Act.FAIL, why.message, why=why)


def _too_long(seen: Seen) -> str:
    now, limit = expected(seen), allowed_seconds(seen)
    said = "maxDowntimeMilliseconds" if seen.max_downtime is not None else "the default limit"
    return (
        f"the blackout would be {now.blackout * 1e3:.0f} ms, more than {said} "
        f"({limit * 1e3:.0f} ms): {now.explanation}"
    )


def _slowing(seen: Seen, share: float) -> str:
    return f"slowed down to {share:.0%} of its CPU time: {_too_long(seen)}"


def _slowed(seen: Seen) -> str:
    slow = seen.share is not None and seen.share < 1.0
    return f"slowed down to {seen.share:.0%} of its CPU time" if slow else ""


def _rounds(seen: Seen) -> str:
    return "1 round" if len(seen.rounds) == 1 else f"{len(seen.rounds)} rounds"


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"
