"""The decisions, also played to their end against containers and links of known speed."""

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


def a_round(pages: int, *, left: int | None, rate: float = 100e6, zeros: int = 0) -> CopyRound:
    size = (pages - zeros) * PAGE_BYTES
    return CopyRound(
        pages=pages, content_bytes=size, bytes=size, seconds=size / rate,
        rate=rate, remaining_pages=left,
    )  # fmt: skip


def seen(*rounds: CopyRound, strategy: Strategy = Strategy.AUTO, **more: object) -> CopyProgress:
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
        """Round after round until something else is decided; slowing down is done."""
        now = start
        for _ in range(200):
            decision = decide_next(now)
            if decision.action is CopyAction.THROTTLE:
                now = replace(now, cpu_share=decision.cpu_share)
            elif decision.action is not CopyAction.COPY_ROUND:
                return now, decision
            now = self._round(now)
        raise AssertionError("it never ends")

    def _round(self, now: CopyProgress) -> CopyProgress:
        size = self.memory if not now.rounds else (now.last_round.remaining_pages or 0) * PAGE_BYTES
        seconds = size / min(self.link, now.bandwidth or self.link) + 0.001
        most = self.working_set or self.memory
        left = min(most, self.writes * (now.cpu_share or 1.0) * seconds)
        pages = size // PAGE_BYTES
        done = replace(
            a_round(pages, left=int(left) // PAGE_BYTES, rate=self.link), seconds=seconds
        )
        return replace(now, rounds=(*now.rounds, done), elapsed=now.elapsed + seconds)


def test_nothing_is_known_before_the_first_round() -> None:
    assert decide_next(seen()).action is CopyAction.COPY_ROUND


@pytest.mark.parametrize("memory", [16 * MEBI, 256 * MEBI, 4096 * MEBI])
def test_an_idle_container_is_handed_over_after_one_round(memory: int) -> None:
    now, decision = Container(memory, writes=0, link=100e6).play(seen())
    assert decision.action is CopyAction.HAND_OVER
    assert len(now.rounds) == 1
    assert now.expected_handover().blackout == COST.fixed


def test_a_large_busy_container_has_the_blackout_of_a_small_one() -> None:
    """4 GiB rewritten at 50 MiB/s over 1 Gbit/s."""
    now, decision = Container(4096 * MEBI, writes=50 * MEBI, link=115e6).play(seen())
    assert decision.action is CopyAction.HAND_OVER
    assert (
        now.expected_handover().blackout == COST.fixed
    )  # the last pages are there before the rest is done
    assert now.final_copy_seconds <= UNNOTICED_SECONDS + OVERLAP_SHARE * COST.overlap
    assert now.cpu_share == 1.0


def test_rounds_that_come_to_less_and_less_go_on_until_the_last_part_is_easy() -> None:
    """What would just be there in time, were all as foretold, is worth another round."""
    tight = round(COST.overlap * 0.9 * 100e6) // PAGE_BYTES
    assert (
        decide_next(seen(a_round(10 * tight, left=tight, rate=100e6))).action
        is CopyAction.COPY_ROUND
    )
    assert decide_next(seen(a_round(tight, left=tight, rate=100e6))).action is CopyAction.HAND_OVER


def test_where_a_limit_is_given_it_is_handed_over_as_soon_as_it_fits() -> None:
    job = Container(1024 * MEBI, writes=50 * MEBI, link=115e6)
    strict, _ = job.play(seen(max_downtime=0.2))
    loose, _ = job.play(seen(max_downtime=2.0))
    assert len(loose.rounds) < len(strict.rounds)
    assert strict.expected_handover().blackout <= 0.2
    assert loose.expected_handover().blackout <= 2.0


def test_a_writer_faster_than_the_link_is_slowed_down_step_by_step() -> None:
    now, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(seen())
    assert decision.action is CopyAction.HAND_OVER
    assert now.cpu_share is not None
    assert LOWEST_CPU_SHARE <= now.cpu_share < 0.5
    assert f"{now.cpu_share:.0%} of its CPU time" in decision.message


def test_post_copy_comes_before_slowing_down_where_it_is_allowed() -> None:
    now, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(seen(post_copy=True))
    assert decision.action is CopyAction.POST_COPY
    assert now.cpu_share == 1.0
    assert "default limit" in decision.message


def test_what_cannot_be_slowed_down_fails_with_the_prediction() -> None:
    _, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(seen(cpu_share=None))
    assert decision.action is CopyAction.FAIL
    assert decision.obstacle is not None
    assert decision.obstacle.reason == "DowntimeTooLong"
    assert "MiB left after" in decision.obstacle.message
    assert "ms" in decision.obstacle.message


def test_pre_copy_never_slows_down_nor_fails() -> None:
    start = seen(strategy=Strategy.PRE_COPY, max_downtime=0.2)
    now, decision = Container(512 * MEBI, writes=200e6, link=100e6).play(start)
    assert decision.action is CopyAction.HAND_OVER
    assert "no longer shrinks" in decision.message
    assert now.cpu_share == 1.0


def test_what_no_longer_shrinks_but_fits_the_default_is_handed_over() -> None:
    """Not unnoticed, and no reason to slow anybody down."""
    still = a_round(2000, left=2000)  # 82 ms
    assert decide_next(seen(a_round(9000, left=2000), still)).action is CopyAction.HAND_OVER


def test_whoever_was_slowed_down_is_told_so_however_it_ends() -> None:
    still = a_round(2000, left=2000)
    decision = decide_next(seen(a_round(9000, left=2000), still, cpu_share=0.5))
    assert decision.action is CopyAction.HAND_OVER
    assert "50% of its CPU time" in decision.message


def test_a_limit_below_what_a_handover_takes_without_memory_is_told_apart() -> None:
    decision = decide_next(seen(a_round(9000, left=9000), max_downtime=0.05))
    assert decision.action is CopyAction.FAIL
    assert "without any memory" in decision.message


def test_a_default_is_no_reason_to_refuse() -> None:
    """The agent has no experience of its own yet: the first handover will tell."""
    decision = decide_next(
        seen(a_round(9000, left=10), max_downtime=0.05, cost=DEFAULT_HANDOVER_COST)
    )
    assert decision.action is CopyAction.HAND_OVER


def test_a_round_that_would_end_after_the_deadline_is_not_begun() -> None:
    shrinking = a_round(100_000, left=50_000, rate=10e6)  # 20 s
    assert decide_next(seen(shrinking, elapsed=10)).action is CopyAction.COPY_ROUND
    late = decide_next(seen(shrinking, elapsed=595, post_copy=True))
    assert late.action is CopyAction.POST_COPY
    assert decide_next(seen(shrinking, elapsed=601)).action is CopyAction.FAIL


def test_a_bandwidth_limit_beyond_the_link_does_not_make_it_faster() -> None:
    slow = a_round(20_000, left=10_000, rate=115e6)
    assert seen(slow, bandwidth=1e9).final_copy_seconds == seen(slow).final_copy_seconds
    untold = replace(slow, rate=0.0)
    assert seen(untold, bandwidth=1e9).final_copy_seconds == seen(slow).final_copy_seconds


def test_the_link_carries_at_least_what_came_over_it_under_a_limit() -> None:
    """A burst waits for its round trip too."""
    told = a_round(20_000, left=1000, rate=50e6)
    paced, untold = replace(told, rate=20e6), replace(told, rate=0.0)
    few = replace(a_round(10, left=1000, rate=1e6), rate=0.0)
    for rounds in ((paced,), (untold,), (untold, few)):
        assert seen(*rounds, bandwidth=50e6).final_copy_seconds == seen(told).final_copy_seconds


def test_a_bandwidth_limit_slows_rounds_but_not_the_last_part() -> None:
    shrinking = a_round(100_000, left=50_000)
    assert (
        decide_next(seen(shrinking, elapsed=500, bandwidth=1e6)).action is not CopyAction.COPY_ROUND
    )
    assert seen(shrinking, bandwidth=1e6).final_copy_seconds == seen(shrinking).final_copy_seconds


def test_without_the_kernels_help_the_last_round_stands_for_what_is_left() -> None:
    first, second = a_round(9000, left=None), a_round(1000, left=None)
    assert seen(first, second).remaining_bytes == second.bytes
    assert decide_next(seen(first)).action is CopyAction.COPY_ROUND
    assert decide_next(seen(first, second, second)).action is CopyAction.HAND_OVER


def test_compression_counts_in_what_is_left() -> None:
    half = replace(a_round(9000, left=1000), bytes=4500 * PAGE_BYTES)
    assert seen(half).remaining_bytes == 500 * PAGE_BYTES


def test_what_passes_beside_the_rest_of_the_handover_costs_nothing() -> None:
    now = seen(a_round(9000, left=1000), cost=HandoverCost(fixed=0.1, overlap=0.05))
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
def test_every_container_comes_to_a_decision_that_keeps_its_word(
    memory: int,
    writes: float,
    link: float,
    max_downtime: float | None,
    fixed: float,
    post_copy: bool,
    deadline: float,
    strategy: Strategy,
) -> None:
    start = seen(
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
    cpu_share=st.floats(LOWEST_CPU_SHARE, 1.0, exclude_min=True), left=st.integers(1, 10**7),
    rate=st.floats(1e6, 1e9),
)  # fmt: skip
def test_each_step_of_slowing_down_is_a_step_and_never_a_stop(
    cpu_share: float, left: int, rate: float
) -> None:
    slow = throttled_share(seen(a_round(1000, left=left, rate=rate), cpu_share=cpu_share))
    assert slow is not None
    assert LOWEST_CPU_SHARE <= slow < cpu_share
