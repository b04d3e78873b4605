"""The counter is a program in an image; what it computes is tried here without its sockets."""

import itertools
import runpy
from typing import Any

import pytest

from transship.lab.images.sample_images import ON_DEMAND, SAMPLES, SOURCES, sample_name


@pytest.fixture(scope="module")
def counter() -> dict[str, Any]:
    return runpy.run_path(str(SOURCES / "counter/counter"))


def test_no_two_pages_of_its_memory_are_the_same(counter: dict[str, Any]) -> None:
    memory = counter["filled"](2)
    pages = [bytes(memory[at : at + 4096]) for at in range(0, len(memory), 4096)]
    assert len(set(pages)) == len(pages) == 512


def test_a_period_that_was_slept_through_is_not_made_up_for(
    counter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slept = [100.0], list[float]()
    time = counter["time"]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(round(seconds, 3)))
    ticks = counter["every"](0.01)
    next(ticks)
    next(ticks)
    now[0] += 5  # frozen
    for _ in itertools.islice(ticks, 2):
        pass
    assert slept == [0.01, 0.0, 0.01]


def test_every_sample_has_a_dockerfile_and_a_name_in_the_registry() -> None:
    assert all((SOURCES / name / "Dockerfile").is_file() for name in (*SAMPLES, *ON_DEMAND))
    assert sample_name("10.0.0.1:5000", "counter") == "10.0.0.1:5000/counter:1"
