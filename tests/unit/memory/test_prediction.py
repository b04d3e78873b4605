from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.api.placement import Compression, MigrationSettings, PostCopy, Strategy
from transship.linux.pages import PAGE_BYTES
from transship.memory.copy_progress import HandoverCost
from transship.memory.prediction import ChangeSample, Measurements, predict

COST = HandoverCost(fixed=0.1, overlap=0.05)
GIBI = (1 << 30) // PAGE_BYTES


def measured(
    *, pages: int = GIBI, rate: float = 115e6, writes: float = 0.0, **more: object
) -> Measurements:
    """writes: bytes per second, each to another page."""
    changes = (ChangeSample(1.0, round(writes / PAGE_BYTES)),)
    values = {"zero_pages": 0, "changes": changes, **more}
    return Measurements(pages=pages, link_rate=rate, **values)  # type: ignore[arg-type]


def auto(**settings: object) -> MigrationSettings:
    return MigrationSettings(compression=Compression.NONE, **settings)


def test_the_memory_of_an_idle_container_is_sent_once() -> None:
    move = predict(measured(), settings=auto(), cost=COST)
    assert move.strategy is Strategy.PRE_COPY
    assert move.obstacle is None
    assert move.prediction is not None
    assert move.prediction.bytes == 1 << 30
    assert move.prediction.blackout_milliseconds == 100
    assert move.prediction.total_milliseconds == pytest.approx(9900, rel=0.05)


def test_pages_of_zeros_are_not_sent() -> None:
    move = predict(measured(zero_pages=GIBI // 2), settings=auto(), cost=COST)
    assert move.prediction is not None
    assert move.prediction.bytes == 1 << 29


def test_compression_counts_on_a_slow_link_only() -> None:
    wish = MigrationSettings()
    slow = predict(measured(compressed_share=0.4), settings=wish, cost=COST).prediction
    fast = predict(measured(compressed_share=0.4, rate=2e9), settings=wish, cost=COST).prediction
    assert slow is not None
    assert fast is not None
    assert slow.bytes == round(0.4 * (1 << 30))
    assert fast.bytes == 1 << 30


def test_the_blackout_of_stop_and_copy_has_all_of_the_memory() -> None:
    move = predict(measured(), settings=auto(strategy=Strategy.STOP_AND_COPY), cost=COST)
    assert move.prediction is not None
    assert move.prediction.blackout_milliseconds > 9000


def test_a_cold_move_has_no_prediction() -> None:
    move = predict(measured(), settings=auto(strategy=Strategy.COLD), cost=COST)
    assert (move.strategy, move.prediction) == (Strategy.COLD, None)


def test_a_container_that_writes_faster_than_the_link_will_be_throttled() -> None:
    move = predict(measured(writes=300e6), settings=auto(), cost=COST)
    assert move.obstacle is None
    assert "of its CPU time" in move.choice


def test_post_copy_is_predicted_only_where_it_is_allowed() -> None:
    for wish, strategy in (
        (auto(post_copy=PostCopy.ALLOWED), Strategy.POST_COPY),
        (auto(post_copy=PostCopy.FORBIDDEN), Strategy.PRE_COPY),
        (auto(), Strategy.PRE_COPY),
    ):
        assert predict(measured(writes=300e6), settings=wish, cost=COST).strategy is strategy


def test_post_copy_sends_all_of_the_memory_after_the_resume() -> None:
    wish = auto(strategy=Strategy.POST_COPY)
    move = predict(measured(writes=300e6), settings=wish, cost=COST)
    assert move.strategy is Strategy.POST_COPY
    assert move.prediction is not None
    assert move.prediction.blackout_milliseconds == 100
    assert move.prediction.total_milliseconds > 9000


def test_a_move_that_would_fail_has_an_obstacle() -> None:
    move = predict(measured(), settings=auto(max_downtime_milliseconds=20), cost=COST)
    assert move.obstacle is not None
    assert move.obstacle.reason == "DowntimeTooLong"


def test_a_bandwidth_limit_and_files_prolong_the_move() -> None:
    free = predict(measured(), settings=auto(), cost=COST).prediction
    wish = auto(max_bandwidth="11M")
    slow = predict(measured(file_bytes=11_000_000), settings=wish, cost=COST).prediction
    assert free is not None
    assert slow is not None
    assert slow.total_milliseconds > 9 * free.total_milliseconds
    assert slow.bytes == free.bytes + 11_000_000


def test_changes_are_interpolated_between_samples() -> None:
    measurements = measured(
        changes=(ChangeSample(0.1, 1000), ChangeSample(1.0, 1200), ChangeSample(2.0, 1300))
    )
    assert measurements.changed_after(0.05) == 500
    assert measurements.changed_after(0.1) == 1000
    assert measurements.changed_after(3.0) == 1400
    assert measurements.changed_after(10**6) == GIBI
    assert measurements.changes_per_second == 650 * PAGE_BYTES


@given(
    pages=st.integers(1, 4 * GIBI),
    rate=st.floats(1e6, 5e9),
    writes=st.floats(0, 5e9),
    strategy=st.sampled_from(Strategy),
    limit=st.none() | st.integers(1, 5000),
)
def test_every_move_can_be_predicted(
    pages: int, rate: float, writes: float, strategy: Strategy, limit: int | None
) -> None:
    wish = MigrationSettings(strategy=strategy, max_downtime_milliseconds=limit)
    move = predict(measured(pages=pages, rate=rate, writes=writes), settings=wish, cost=COST)
    if move.prediction is not None:
        assert move.prediction.blackout_milliseconds >= 100
        assert move.prediction.bytes >= 0
