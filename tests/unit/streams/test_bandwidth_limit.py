from hypothesis import given
from hypothesis import strategies as st

from transship.streams.bandwidth_limit import BURST_SECONDS, BandwidthLimit

SIZES = st.lists(st.integers(1, 1 << 20), min_size=1, max_size=200)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_rate_nobody_waits() -> None:
    bandwidth = BandwidthLimit(None)
    assert [bandwidth.delay(1 << 30) for _ in range(3)] == [0.0] * 3


@given(sizes=SIZES, rate=st.floats(1e4, 1e9))
def test_whoever_always_waits_keeps_to_the_rate(sizes: list[int], rate: float) -> None:
    clock = Clock()
    bandwidth = BandwidthLimit(rate, clock=clock)
    began = clock.now
    for number, size in enumerate(sizes):
        clock.now += bandwidth.delay(size)
        before = sum(sizes[:number])  # what was on its way when this one's turn came
        assert before <= rate * (clock.now - began + BURST_SECONDS) * 1.0001
    # and it loses no time: the last one waited for what was before it, and no longer
    assert clock.now - began <= max(0.0, sum(sizes[:-1]) / rate - BURST_SECONDS) + 1e-6


@given(sizes=SIZES, rate=st.floats(1e4, 1e9))
def test_streams_that_ask_at_once_share_one_rate(sizes: list[int], rate: float) -> None:
    bandwidth = BandwidthLimit(rate, clock=lambda: 0.0)
    waits = [bandwidth.delay(size) for size in sizes]
    assert waits == sorted(waits)
    assert waits[-1] <= sum(sizes[:-1]) / rate


def test_a_pause_saves_nothing_up() -> None:
    clock = Clock()
    bandwidth = BandwidthLimit(1000.0, clock=clock)
    bandwidth.delay(1)
    clock.now += 3600
    assert bandwidth.delay(1000) == 0.0
    assert bandwidth.delay(1) > 1 - BURST_SECONDS - 1e-6


def test_a_lifted_limit_holds_nothing_back() -> None:
    bandwidth = BandwidthLimit(1.0)
    bandwidth.delay(1000)
    bandwidth.lift()
    assert bandwidth.delay(1000) == 0.0
