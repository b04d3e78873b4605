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


def load(
    *, pages: int = GIBI, rate: float = 115e6, writes: float = 0.0, **more: object
) -> Measurements:
    """writes: bytes a second, each to another page."""
    changes = (ChangeSample(1.0, round(writes / PAGE_BYTES)),)
    values = {"zero_pages": 0, "changes": changes, **more}
    return Measurements(pages=pages, link_rate=rate, **values)  # type: ignore[arg-type]


def auto(**settings: object) -> MigrationSettings:
    return MigrationSettings(compression=Compression.NONE, **settings)  # type: ignore[arg-type]


def test_an_idle_container_takes_its_memory_once_over_the_link() -> None:
    found = predict(load(), settings=auto(), cost=COST)
    assert found.strategy is Strategy.PRE_COPY
    assert found.obstacle is None
    assert found.prediction is not None
    assert found.prediction.bytes == 1 << 30
    assert found.prediction.blackout_milliseconds == 100
    assert found.prediction.total_milliseconds == pytest.approx(9900, rel=0.05)


def test_pages_of_zeros_cost_nothing() -> None:
    found = predict(load(zero_pages=GIBI // 2), settings=auto(), cost=COST)
    assert found.prediction is not None
    assert found.prediction.bytes == 1 << 29


def test_compression_counts_on_a_slow_link_only() -> None:
    wish = MigrationSettings()
    slow = predict(load(compressed_share=0.4), settings=wish, cost=COST).prediction
    fast = predict(load(compressed_share=0.4, rate=2e9), settings=wish, cost=COST).prediction
    assert slow is not None
    assert fast is not None
    assert slow.bytes == round(0.4 * (1 << 30))
    assert fast.bytes == 1 << 30


def test_stop_and_copy_has_all_of_it_in_its_blackout() -> None:
    found = predict(load(), settings=auto(strategy=Strategy.STOP_AND_COPY), cost=COST)
    assert found.prediction is not None
    assert found.prediction.blackout_milliseconds > 9000


def test_cold_has_no_blackout_to_predict() -> None:
    found = predict(load(), settings=auto(strategy=Strategy.COLD), cost=COST)
    assert (found.strategy, found.prediction) == (Strategy.COLD, None)


def test_a_writer_faster_than_the_link_is_told_that_it_will_be_slowed_down() -> None:
    found = predict(load(writes=300e6), settings=auto(), cost=COST)
    assert found.obstacle is None
    assert "of its CPU time" in found.choice


def test_post_copy_is_predicted_only_where_it_is_allowed() -> None:
    for wish, strategy in (
        (auto(post_copy=PostCopy.ALLOWED), Strategy.POST_COPY),
        (auto(post_copy=PostCopy.FORBIDDEN), Strategy.PRE_COPY),
        (auto(), Strategy.PRE_COPY),
    ):
        assert predict(load(writes=300e6), settings=wish, cost=COST).strategy is strategy


def test_all_of_the_memory_can_follow_the_container() -> None:
    wish = auto(strategy=Strategy.POST_COPY)
    found = predict(load(writes=300e6), settings=wish, cost=COST)
    assert found.strategy is Strategy.POST_COPY
    assert found.prediction is not None
    assert found.prediction.blackout_milliseconds == 100
    assert found.prediction.total_milliseconds > 9000


def test_what_would_fail_is_an_obstacle() -> None:
    found = predict(load(), settings=auto(max_downtime_milliseconds=20), cost=COST)
    assert found.obstacle is not None
    assert found.obstacle.reason == "DowntimeTooLong"


def test_a_limit_makes_it_longer_and_files_come_first() -> None:
    free = predict(load(), settings=auto(), cost=COST).prediction
    wish = auto(max_bandwidth="11M")
    slow = predict(load(file_bytes=11_000_000), settings=wish, cost=COST).prediction
    assert free is not None
    assert slow is not None
    assert slow.total_milliseconds > 9 * free.total_milliseconds
    assert slow.bytes == free.bytes + 11_000_000


def test_a_hot_set_shows_in_the_samples() -> None:
    seen = load(changes=(ChangeSample(0.1, 1000), ChangeSample(1.0, 1200), ChangeSample(2.0, 1300)))
    assert seen.changed_after(0.05) == 500
    assert seen.changed_after(0.1) == 1000
    assert seen.changed_after(3.0) == 1400
    assert seen.changed_after(10**6) == GIBI
    assert seen.changes_per_second == 650 * PAGE_BYTES


@given(
    pages=st.integers(1, 4 * GIBI), rate=st.floats(1e6, 5e9), writes=st.floats(0, 5e9),
    strategy=st.sampled_from(Strategy), limit=st.none() | st.integers(1, 5000),
)  # fmt: skip
def test_every_move_can_be_predicted(
    pages: int, rate: float, writes: float, strategy: Strategy, limit: int | None
) -> None:
    wish = MigrationSettings(strategy=strategy, max_downtime_milliseconds=limit)
    found = predict(load(pages=pages, rate=rate, writes=writes), settings=wish, cost=COST)
    if found.prediction is not None:
        assert found.prediction.blackout_milliseconds >= 100
        assert found.prediction.bytes >= 0
