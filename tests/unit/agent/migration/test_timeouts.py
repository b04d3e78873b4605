"""Time limits inside a freeze: by what is worked on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.agent.migration import timeouts

SIZES = st.integers(min_value=0, max_value=1 << 40)
MEASURED_COPY = 1e9
"""Bytes per second."""


@given(SIZES)
def test_a_restore_has_several_times_what_it_takes(size: int) -> None:
    assert timeouts.restore_seconds(image_bytes=size) > 4 * size / MEASURED_COPY


@given(image_bytes=SIZES, sent_bytes=SIZES)
def test_the_targets_own_time_is_over_before_the_sources(image_bytes: int, sent_bytes: int) -> None:
    """It puts the images together and restores from them: two limits, one after the other."""
    of_target = 2 * timeouts.restore_seconds(image_bytes=image_bytes) - timeouts.RESTORE_SECONDS
    answer = timeouts.answer_seconds(image_bytes=image_bytes, sent_bytes=sent_bytes)
    assert answer > of_target
    assert answer - of_target >= timeouts.ANSWER_SECONDS


@given(SIZES)
def test_what_is_not_sent_does_not_wait_for_the_link(size: int) -> None:
    sent = timeouts.answer_seconds(image_bytes=size, sent_bytes=size)
    unsent = timeouts.answer_seconds(image_bytes=size, sent_bytes=0)
    assert sent - unsent == pytest.approx(size / timeouts.SLOWEST_LINK)


def test_a_step_that_hangs_ends_within_half_a_minute() -> None:
    assert timeouts.DUMP_SECONDS < 30
    assert timeouts.answer_seconds(image_bytes=0, sent_bytes=0) <= 30
