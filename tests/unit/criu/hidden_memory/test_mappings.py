"""What CRIU sees of the memory areas of a process."""

from __future__ import annotations

import pytest

from transship.criu.hidden_memory import mappings
from transship.criu.hidden_memory.mappings import HiddenMappings
from transship.linux.mappings import parse_area

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
    line: str, flags: str = PLAIN, *, visible: tuple[int, ...] = ()
) -> HiddenMappings:
    return mappings.hidden_mappings([(parse_area(line), flags)], visible=visible, page_bytes=PAGE)


def test_a_large_anonymous_mapping_is_hidden_and_shown_as_one_page() -> None:
    view = hidden_mappings(ARENA)
    assert view.hidden == ((0x7F0000000000, 0x7F0004000000),)
    assert view.ends == {0x7F0000000000: 0x7F0004000000}
    assert view.smaps == f"{ARENA.replace('7f0004000000', '7f0000001000')}\n{PLAIN}\n"


def test_the_stack_in_use_is_shown() -> None:
    page = 0x7F0002000000
    view = hidden_mappings(ARENA, visible=(page,))
    assert view.hidden == ((0x7F0000000000, page), (page + PAGE, 0x7F0004000000))
    assert view.smaps.startswith("7f0000000000-7f0002001000 rw-p ")


def test_a_small_mapping_is_shown_in_full_length_without_its_pages() -> None:
    line = HEAP.replace("02be2000", "00be4000")
    view = hidden_mappings(line)
    assert view.hidden == ((0xBE2000, 0xBE4000),)
    assert (view.ends, view.smaps) == ({}, f"{line}\n{PLAIN}\n")


@pytest.mark.parametrize("line", [FILE, SHARED, VDSO], ids=["a file's", "shared", "the kernel's"])
def test_what_is_not_private_and_anonymous_is_not_hidden(line: str) -> None:
    assert hidden_mappings(line) == HiddenMappings(f"{line}\n{PLAIN}\n", (), {})


@pytest.mark.parametrize("flag", sorted(mappings.NOT_LAZY_FLAGS))
def test_what_criu_does_not_restore_lazily_is_not_hidden(flag: str) -> None:
    assert hidden_mappings(ARENA, f"{PLAIN} {flag}").hidden == ()


def test_a_mapping_that_grows_down_keeps_its_length() -> None:
    assert hidden_mappings(ARENA, f"{PLAIN} gd").ends == {}
