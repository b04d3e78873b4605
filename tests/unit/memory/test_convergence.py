"""The decisions, one by one, and played through for containers and links of known speed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.api.placement import Strategy
from transship.linux.pages import PAGE_BYTES
from transship.memory.convergence import (
    LOWEST_CPU_SHARE,
    MAX_ROUNDS,
    OVERLAP_SHARE,
    UNNOTICED_SECONDS,
    CopyAction,
    CopyDecision,
    decide_next,
    throttled_share,
)
from transship.memory.copy_progress import (
    DEFAULT_HANDOVER_COST,
    CopyProgress,
    CopyRound,
    HandoverCost,
)

MEBI = 1 << 20
COST = HandoverCost(fixed=0.1, overlap=0.05)


def copy_round(pages: int, *, left: int | None, rate: float = 100e6, zeros: int = 0) -> CopyRound:
    size = (pages - zeros) * PAGE_BYTES
    return CopyRound(
        pages=pages,
        content_bytes=size,
        bytes=size,
        seconds=size / rate,
        rate=rate,
        remaining_pages=left,
    )


def progress(
    *rounds: CopyRound, strategy: Strategy = Strategy.AUTO, **more: object
) -> CopyProgress:
    values = {"cost": COST, "elapsed": 1.0, "deadline": 600.0, **more}
    return CopyProgress(strategy=strategy, rounds=rounds, **values)  # type: ignore[arg-type]


@dataclass
class Container:
    """A container that writes its working set, page after page, over a link."""

    memory: int
    writes: float  # bytes a second
    link: float
    working_set: int | None = None

    def play(self, start: CopyProgress) -> tuple[CopyProgress, CopyDecision]:
        """Copy and throttle until something else is decided."""
        now = start
        for _ in range(200):
            decision = decide_next(now)
            if decision.action is CopyAction.THROTTLE:
                now = replace(now, cpu_share=decision.cpu_share)
            elif decision.action is not CopyAction.COPY_ROUND:
                return now, decision
            now = self._round(now)
        raise AssertionError("there is no decision")

    def _round(self, now: CopyProgress) -> CopyProgress:
        size = self.memory if not now.rounds else (now.last_round.remaining_pages or 0) * PAGE_BYTES
        seconds = size / min(self.link, now.bandwidth or self.link) + 0.001
        most = self.working_set or self.memory
        left = min(most, self.writes * (now.cpu_share or 1.0) * seconds)
        pages = size // PAGE_BYTES
        done = replace(
            copy_round(pages, left=int(left) // PAGE_BYTES, rate=self.link), seconds=seconds
        )
        return replace(now, rounds=(*now.rounds, done), elapsed=now.elapsed + seconds)


def test_the_first_action_is_a_round() -> None:
    assert decide_next(progress()).action is CopyAction.COPY_ROUND


@pytest.mark.parametrize("memory", [16 * MEBI, 256 * MEBI, 4096 * MEBI])
def test_an_idle_container_is_handed_over_after_one_round(memory: int) -> None:
    now, decision = Container(memory, writes=0, link=100e6).play(progress())
    assert decision.action is CopyAction.HAND_OVER
    assert len(now.rounds) == 1
    assert now.expected_handover().blackout == COST.fixed


def test_a_large_busy_container_has_the_blackout_of_a_small_one() -> None:
    """4 GiB rewritten at 50 MiB/s over 1 Gbit/s."""
    now, decision = Container(4096 * MEBI, writes=50 * MEBI, link=115e6).play(progress())
    assert decision.action is CopyAction.HAND_OVER
    assert (
        now.expected_handover().blackout == COST.fixed
    )  # the last pages arrive before the rest is done
    assert now.final_copy_seconds <= UNNOTICED_SECONDS + OVERLAP_SHARE * COST.overlap
    assert now.cpu_share == 1.0


def test_shrinking_rounds_go_on_until_the_final_copy_is_short() -> None:
    """A final copy that is predicted to be just in time is worth another round."""
    tight = round(COST.overlap * 0.9 * 100e6) // PAGE_BYTES
    assert (
        decide_next(progress(copy_round(10 * tight, left=tight, rate=100e6))).action
        is CopyAction.COPY_ROUND
    )
    assert (
        decide_next(progress(copy_round(tight, left=tight, rate=100e6))).action
        is CopyAction.HAND_OVER
    )


def test_with_a_limit_the_handover_is_as_soon_as_it_fits() -> None:
    job = Container(1024 * MEBI, writes=50 * MEBI, link=115e6)
    strict, _ = job.play(progress(max_downtime=0.2))
    loose, _ = job.play(progress(max_downtime=2.0))
    assert len(loose.rounds) < len(strict.rounds)
    assert strict.expected_handover().blackout <= 0.2
    assert loose.expected_handover().blackout <= 2.0


def test_a_container_that_writes_faster_than_the_link_is_throttled_step_by_step() -> None:
    now, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(progress())
    assert decision.action is CopyAction.HAND_OVER
    assert now.cpu_share is not None
    assert LOWEST_CPU_SHARE <= now.cpu_share < 0.5
    assert f"{now.cpu_share:.0%} of its CPU time" in decision.message


def test_post_copy_comes_before_throttling_if_it_is_allowed() -> None:
    now, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(progress(post_copy=True))
    assert decision.action is CopyAction.POST_COPY
    assert now.cpu_share == 1.0
    assert "default limit" in decision.message


def test_a_container_that_cannot_be_throttled_fails_with_the_prediction() -> None:
    _, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(progress(cpu_share=None))
    assert decision.action is CopyAction.FAIL
    assert decision.obstacle is not None
    assert decision.obstacle.reason == "DowntimeTooLong"
    assert "MiB left after" in decision.obstacle.message
    assert "ms" in decision.obstacle.message


def test_pre_copy_never_throttles_nor_fails() -> None:
    start = progress(strategy=Strategy.PRE_COPY, max_downtime=0.2)
    now, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(start)
    assert decision.action is CopyAction.HAND_OVER
    assert "no longer shrinks" in decision.message
    assert now.cpu_share == 1.0


def test_memory_that_no_longer_shrinks_but_fits_the_default_is_handed_over() -> None:
    """It prolongs the blackout, but not enough to throttle the container."""
    still = copy_round(2000, left=2000)  # 82 ms
    assert decide_next(progress(copy_round(9000, left=2000), still)).action is CopyAction.HAND_OVER


def test_the_message_says_that_the_container_was_throttled() -> None:
    still = copy_round(2000, left=2000)
    decision = decide_next(progress(copy_round(9000, left=2000), still, cpu_share=0.5))
    assert decision.action is CopyAction.HAND_OVER
    assert "50% of its CPU time" in decision.message


def test_a_limit_below_the_cost_of_a_handover_has_its_own_message() -> None:
    decision = decide_next(progress(copy_round(9000, left=9000), max_downtime=0.05))
    assert decision.action is CopyAction.FAIL
    assert "without any memory" in decision.message


def test_a_default_cost_is_no_reason_to_fail() -> None:
    """The agent has measured no handover yet: the first one shows its real cost."""
    decision = decide_next(
        progress(copy_round(9000, left=10), max_downtime=0.05, cost=DEFAULT_HANDOVER_COST)
    )
    assert decision.action is CopyAction.HAND_OVER


def test_a_round_that_would_end_after_the_deadline_is_not_begun() -> None:
    shrinking = copy_round(100_000, left=50_000, rate=10e6)  # 20 s
    assert decide_next(progress(shrinking, elapsed=10)).action is CopyAction.COPY_ROUND
    late = decide_next(progress(shrinking, elapsed=595, post_copy=True))
    assert late.action is CopyAction.POST_COPY
    assert decide_next(progress(shrinking, elapsed=601)).action is CopyAction.FAIL


def test_a_bandwidth_limit_beyond_the_link_does_not_make_it_faster() -> None:
    slow = copy_round(20_000, left=10_000, rate=115e6)
    assert progress(slow, bandwidth=1e9).final_copy_seconds == progress(slow).final_copy_seconds
    untold = replace(slow, rate=0.0)
    assert progress(untold, bandwidth=1e9).final_copy_seconds == progress(slow).final_copy_seconds


def test_the_link_carries_at_least_what_a_limited_round_achieved() -> None:
    """The time of a burst includes a round trip."""
    measured = copy_round(20_000, left=1000, rate=50e6)
    paced, untold = replace(measured, rate=20e6), replace(measured, rate=0.0)
    few = replace(copy_round(10, left=1000, rate=1e6), rate=0.0)
    for rounds in ((paced,), (untold,), (untold, few)):
        assert (
            progress(*rounds, bandwidth=50e6).final_copy_seconds
            == progress(measured).final_copy_seconds
        )


def test_a_bandwidth_limit_slows_rounds_but_not_the_final_copy() -> None:
    shrinking = copy_round(100_000, left=50_000)
    assert (
        decide_next(progress(shrinking, elapsed=500, bandwidth=1e6)).action
        is not CopyAction.COPY_ROUND
    )
    assert (
        progress(shrinking, bandwidth=1e6).final_copy_seconds
        == progress(shrinking).final_copy_seconds
    )


def test_without_a_record_of_writes_the_last_round_estimates_the_remaining_memory() -> None:
    first, second = copy_round(9000, left=None), copy_round(1000, left=None)
    assert progress(first, second).remaining_bytes == second.bytes
    assert decide_next(progress(first)).action is CopyAction.COPY_ROUND
    assert decide_next(progress(first, second, second)).action is CopyAction.HAND_OVER


def test_remaining_bytes_are_compressed() -> None:
    half = replace(copy_round(9000, left=1000), bytes=4500 * PAGE_BYTES)
    assert progress(half).remaining_bytes == 500 * PAGE_BYTES


def test_memory_sent_during_the_rest_of_the_handover_costs_nothing() -> None:
    now = progress(copy_round(9000, left=1000), cost=HandoverCost(fixed=0.1, overlap=0.05))
    assert now.final_copy_seconds < 0.05
    assert now.expected_handover().blackout == 0.1


@given(
    memory=st.integers(PAGE_BYTES, 8192 * MEBI),
    writes=st.floats(0, 2e9),
    link=st.floats(1e6, 2e9),
    max_downtime=st.none() | st.floats(0.02, 3.0),
    fixed=st.floats(0.01, 1.0),
    post_copy=st.booleans(),
    deadline=st.floats(1, 3600),
    strategy=st.sampled_from([Strategy.AUTO, Strategy.PRE_COPY]),
)
def test_every_container_comes_to_a_decision_that_keeps_the_limit(
    memory: int,
    writes: float,
    link: float,
    max_downtime: float | None,
    fixed: float,
    post_copy: bool,
    deadline: float,
    strategy: Strategy,
) -> None:
    start = progress(
        strategy=strategy,
        max_downtime=max_downtime,
        cost=HandoverCost(fixed, fixed / 2),
        deadline=deadline,
        post_copy=post_copy,
    )
    now, decision = Container(memory, writes, link).play(start)
    assert 1 <= len(now.rounds) <= MAX_ROUNDS + 30
    if strategy is Strategy.PRE_COPY:
        assert decision.action is CopyAction.HAND_OVER
        assert now.cpu_share == 1.0
    elif decision.action is CopyAction.HAND_OVER:
        assert now.expected_handover().blackout <= now.allowed_blackout + 1e-9
    else:
        limit = now.allowed_blackout
        assert now.expected_handover().blackout > limit
        assert (decision.action is CopyAction.POST_COPY) == (post_copy and fixed <= limit)


@given(
    cpu_share=st.floats(LOWEST_CPU_SHARE, 1.0, exclude_min=True),
    left=st.integers(1, 10**7),
    rate=st.floats(1e6, 1e9),
)
def test_each_throttling_is_lower_but_never_zero(cpu_share: float, left: int, rate: float) -> None:
    slow = throttled_share(progress(copy_round(1000, left=left, rate=rate), cpu_share=cpu_share))
    assert slow is not None
    assert LOWEST_CPU_SHARE <= slow < cpu_share
