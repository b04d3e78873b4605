"""The witness is a program in an image; what it proves is tried here without its socket."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from transship.lab.images.sample_images import SOURCES


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    return runpy.run_path(str(SOURCES / "witness/witness"))


@pytest.fixture
def memory(program: dict[str, Any]) -> Any:
    made = program["Memory"](1)
    made.rewrite(300)
    return made


def test_memory_that_follows_its_rule_is_whole(memory: Any) -> None:
    assert memory.proof() == ""


@pytest.mark.parametrize("page", [0, 43, 44, 255])
def test_a_page_of_zeros_is_found(memory: Any, page: int) -> None:
    memory._data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    assert f"page {page} " in memory.proof()


def test_a_page_that_was_not_rewritten_in_time_is_found(
    program: dict[str, Any], memory: Any
) -> None:
    stale = bytes(memory._data[44 * 4096 : 45 * 4096])
    memory.rewrite(1)
    assert memory.proof() == ""
    memory._data[44 * 4096 : 45 * 4096] = stale
    assert memory.proof() == "page 44 of 256 is not of turn 2"


def test_a_program_that_is_started_again_goes_on_after_the_last_line(
    program: dict[str, Any], tmp_path: Path
) -> None:
    first = program["Lines"](str(tmp_path / "lines"))
    assert [first.next(), first.next()] == [1, 2]
    second = program["Lines"](str(tmp_path / "lines"))
    assert second.next() == 3
    assert second.proof() == ""


def test_a_lost_line_is_found(program: dict[str, Any], tmp_path: Path) -> None:
    lines = program["Lines"](str(tmp_path / "lines"))
    for _ in range(3):
        lines.next()
    (tmp_path / "lines").write_bytes(b"1\n3\n")
    assert lines.proof() == "the file has 2 lines, not those from 1 to 3"


def test_a_witness_answers_numbers_a_proof_and_who_it_is(
    program: dict[str, Any], tmp_path: Path
) -> None:
    made = program["Witness"](program["Memory"](1), program["Lines"](str(tmp_path / "lines")))
    assert [made.answer(b"next"), made.answer(b"prove")] == [b"1", b"whole 1"]
    assert made.answer(b"who") == made.answer(b"who") != b""
