from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from transship.linux import smaps

PAGE = 4096
PLAIN = "VmFlags: rd wr mr mw me ac"
HEAP = "00be2000-02be2000 rw-p 00000000 00:00 0                                  [heap]"
ARENA = "7f0000000000-7f0004000000 rw-p 00000000 00:00 0 "
FILE = "7f1000000000-7f1000001000 rw-p 00001000 fe:01 4711                       /usr/lib/libc.so.6"
SHARED = (
    "7f2000000000-7f2004000000 rw-s 00000000 00:01 77                         /dev/zero (deleted)"
)
VDSO = "7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]"


def hidden_mappings(
    line: str, flags: str = PLAIN, *, shown: tuple[int, ...] = ()
) -> smaps.HiddenMappings:
    return smaps.hidden_mappings([(smaps.area(line), flags)], shown=shown, page_bytes=PAGE)


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
    assert found == ((smaps.area(HEAP), PLAIN), (smaps.area(FILE), "VmFlags: rd wr"))


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
    assert smaps.flagged(now, {HEAP: PLAIN}) == ((smaps.area(now), PLAIN),)


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


def test_a_large_anonymous_mapping_is_hidden_and_shown_as_one_page() -> None:
    seen = hidden_mappings(ARENA)
    assert seen.hidden == ((0x7F0000000000, 0x7F0004000000),)
    assert seen.ends == {0x7F0000000000: 0x7F0004000000}
    assert seen.smaps == f"{ARENA.replace('7f0004000000', '7f0000001000')}\n{PLAIN}\n"


def test_the_stack_in_use_is_shown() -> None:
    page = 0x7F0002000000
    seen = hidden_mappings(ARENA, shown=(page,))
    assert seen.hidden == ((0x7F0000000000, page), (page + PAGE, 0x7F0004000000))
    assert seen.smaps.startswith("7f0000000000-7f0002001000 rw-p ")


def test_a_small_mapping_is_shown_in_full_length_without_its_pages() -> None:
    line = HEAP.replace("02be2000", "00be4000")
    seen = hidden_mappings(line)
    assert seen.hidden == ((0xBE2000, 0xBE4000),)
    assert (seen.ends, seen.smaps) == ({}, f"{line}\n{PLAIN}\n")


@pytest.mark.parametrize("line", [FILE, SHARED, VDSO], ids=["a file's", "shared", "the kernel's"])
def test_what_is_not_private_and_anonymous_is_not_hidden(line: str) -> None:
    assert hidden_mappings(line) == smaps.HiddenMappings(f"{line}\n{PLAIN}\n", (), {})


@pytest.mark.parametrize("flag", sorted(smaps.NOT_LAZY_FLAGS))
def test_what_criu_does_not_restore_lazily_is_not_hidden(flag: str) -> None:
    assert hidden_mappings(ARENA, f"{PLAIN} {flag}").hidden == ()


def test_a_mapping_that_grows_down_keeps_its_length() -> None:
    assert hidden_mappings(ARENA, f"{PLAIN} gd").ends == {}


def test_only_a_newline_ends_a_line() -> None:
    assert smaps.lines("a\x0bb\u2028c\nd\n") == ["a\x0bb\u2028c", "d"]
    assert smaps.lines("") == []
