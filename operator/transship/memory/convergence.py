"""What a source does next with a container's memory, decided from its copy rounds so far. Pure.

The agent acts on the decisions (agent.migration.source.precopy); memory.prediction plays them
through for `transship plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from transship import strategies
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason
from transship.memory.copy_progress import CopyProgress

UNNOTICED_SECONDS = 0.01
OVERLAP_SHARE = 0.1
"""Where the user sets no limit, another round is worth it if the final copy would take longer than
UNNOTICED_SECONDS plus this share of the overlap. A restore that waits for its last pages adds the
whole wait to the blackout; another round adds nothing."""
MIN_SHRINK = 0.9
"""A round helps if what remains after it is less than this share of what it sent."""
MAX_ROUNDS = 30
"""A container that has not converged by then will not, unless it is throttled."""

THROTTLE_STEP = 0.7
"""The next CPU share is at most this share of the present one."""
LOWEST_CPU_SHARE = 0.01
"""The auto-converge of QEMU ends at 1 % too."""
WRITE_RATE_SHARE = 0.5
"""A container converges within a few rounds if it writes at this share of the link's rate."""

NO_LONGER_SHRINKS = "the remaining memory no longer shrinks"


class CopyAction(Enum):
    """What to do with the memory now."""

    COPY_ROUND = auto()
    HAND_OVER = auto()
    POST_COPY = auto()
    THROTTLE = auto()
    FAIL = auto()


@dataclass(frozen=True)
class CopyDecision:
    """cpu_share: what to leave the container of its CPU time, for THROTTLE. obstacle: for FAIL."""

    action: CopyAction
    message: str = ""
    cpu_share: float = 1.0
    obstacle: Obstacle | None = None


def decide_next(progress: CopyProgress) -> CopyDecision:
    """Choose the next action."""
    if not progress.rounds:
        return CopyDecision(CopyAction.COPY_ROUND)
    if is_good_enough(progress):
        return CopyDecision(CopyAction.HAND_OVER, _throttled(progress))
    if _another_round_helps(progress):
        return CopyDecision(CopyAction.COPY_ROUND, _throttled(progress))
    if not strategies.of(progress.strategy).keeps_downtime_limit:
        return CopyDecision(CopyAction.HAND_OVER, NO_LONGER_SHRINKS)
    return _without_more_rounds(progress)


def is_good_enough(progress: CopyProgress) -> bool:
    """Whether to hand over at once: another round would not make a difference that matters."""
    if progress.max_downtime is not None:
        return progress.fits
    return progress.final_copy_seconds <= UNNOTICED_SECONDS + OVERLAP_SHARE * progress.cost.overlap


def throttled_share(progress: CopyProgress) -> float | None:
    """The CPU share to throttle the container to; None where throttling further does not help.

    A container is assumed to write in proportion to its CPU time.
    """
    share = progress.cpu_share
    if share is None or share <= LOWEST_CPU_SHARE or progress.elapsed >= progress.deadline:
        return None
    written = progress.remaining_bytes / max(progress.last_round.seconds, 1e-3)
    converging = WRITE_RATE_SHARE * progress.round_rate / max(written, 1.0)
    return max(LOWEST_CPU_SHARE, share * min(THROTTLE_STEP, converging))


def _another_round_helps(progress: CopyProgress) -> bool:
    """Whether one more round leaves less, and ends before the deadline."""
    if len(progress.rounds) >= MAX_ROUNDS or not _shrinks(progress):
        return False
    seconds = progress.remaining_bytes / progress.round_rate
    return progress.elapsed + seconds + progress.allowed_blackout < progress.deadline


def _shrinks(progress: CopyProgress) -> bool:
    last = progress.last_round
    if last.remaining_pages is not None:
        return last.remaining_pages < MIN_SHRINK * last.pages
    return len(progress.rounds) < 2 or last.pages < MIN_SHRINK * progress.rounds[-2].pages


def _without_more_rounds(progress: CopyProgress) -> CopyDecision:
    """Choose an action when further rounds at the present speed do not help."""
    if progress.fits:
        message = _throttled(progress) or f"{NO_LONGER_SHRINKS}, and fits"
        return CopyDecision(CopyAction.HAND_OVER, message)
    if progress.cost.fixed > progress.allowed_blackout and progress.cost.measured:
        return _fail(progress, "even without any memory")
    if progress.post_copy:
        return CopyDecision(CopyAction.POST_COPY, f"PostCopy: {_too_long(progress)}")
    share = throttled_share(progress)
    if share is None:
        return _fail(progress, "and throttling the container further does not help")
    message = f"slowed down to {share:.0%} of its CPU time: {_too_long(progress)}"
    return CopyDecision(CopyAction.THROTTLE, message, cpu_share=share)


def _fail(progress: CopyProgress, cause: str) -> CopyDecision:
    why = obstacle(Reason.DOWNTIME_TOO_LONG, f"{_too_long(progress)}, {cause}")
    return CopyDecision(CopyAction.FAIL, why.message, obstacle=why)


def _too_long(progress: CopyProgress) -> str:
    expected, limit = progress.expected_handover(), progress.allowed_blackout
    origin = "maxDowntimeMilliseconds" if progress.max_downtime is not None else "the default limit"
    return (
        f"the blackout would be {expected.blackout * 1e3:.0f} ms, more than {origin} "
        f"({limit * 1e3:.0f} ms): {expected.explanation}"
    )


def _throttled(progress: CopyProgress) -> str:
    share = progress.cpu_share
    return f"slowed down to {share:.0%} of its CPU time" if share is not None and share < 1 else ""
