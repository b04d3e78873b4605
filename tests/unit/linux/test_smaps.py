from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from transship.linux import smaps
from transship.linux.mappings import parse_area

PLAIN = "VmFlags: rd wr mr mw me ac"
HEAP = "00be2000-02be2000 rw-p 00000000 00:00 0                                  [heap]"
ARENA = "7f0000000000-7f0004000000 rw-p 00000000 00:00 0 "
FILE = "7f1000000000-7f1000001000 rw-p 00001000 fe:01 4711                       /usr/lib/libc.so.6"


def test_a_survey_of_this_process_knows_the_flags_of_each_of_its_mappings() -> None:
    known = smaps.survey(Path("/proc/self/smaps").read_text())
    made = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    assert len(known) > 20
    assert all(flags.startswith("VmFlags: ") for flags in known.values())
    now = Path("/proc/self/smaps").read_text()
    assert smaps.survey(now).keys() - known.keys()
    made.close()


def test_flags_are_put_to_the_lines_that_they_were_read_with() -> None:
    known = {HEAP: PLAIN, FILE: "VmFlags: rd wr"}
    found = smaps.flagged(f"{HEAP}\n{FILE}\n", known)
    assert found == ((parse_area(HEAP), PLAIN), (parse_area(FILE), "VmFlags: rd wr"))


@pytest.mark.parametrize(
    "now",
    [
        HEAP.replace("02be2000", "03be2000"),
        HEAP.replace("02be2000", "01be2000"),
        HEAP.replace("00be2000", "00ce2000"),
    ],
    ids=["grown", "shrunk", "cut off at its beginning"],
)
def test_a_mapping_that_has_changed_its_size_keeps_its_flags(now: str) -> None:
    assert smaps.flagged(now, {HEAP: PLAIN}) == ((parse_area(now), PLAIN),)


@pytest.mark.parametrize(
    "now",
    [
        ARENA.replace("7f00", "7f01"),
        HEAP.replace("rw-p", "r--p").replace("02be2000", "01be2000"),
        FILE.replace("7f1000001000", "7f1000002000"),
    ],
    ids=["elsewhere", "with another access", "of a file"],
)
def test_what_is_new_is_not_guessed(now: str) -> None:
    assert smaps.flagged(now, {HEAP: PLAIN, ARENA: PLAIN, FILE: PLAIN}) is None


def test_a_mapping_joined_from_two_of_different_flags_is_not_guessed() -> None:
    upper = ARENA.replace("7f0000000000-7f0004000000", "7f0004000000-7f0008000000")
    both = ARENA.replace("7f0004000000", "7f0008000000")
    assert smaps.flagged(both, {ARENA: PLAIN, upper: "VmFlags: rd"}) is None
    assert smaps.flagged(both, {ARENA: PLAIN, upper: PLAIN}) is not None
