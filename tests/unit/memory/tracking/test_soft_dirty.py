from contextlib import nullcontext
from dataclasses import dataclass

from transship.linux.pages import PageRange
from transship.linux.processes import Process
from transship.memory.tracking import soft_dirty
from transship.memory.tracking.soft_dirty import SoftDirtyTracker

PRESENT, FILE, SOFT_DIRTY = 1 << 63, 1 << 61, 1 << 55


def entries(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "little") for number in numbers)


def test_a_page_counts_as_written_if_it_is_private_and_its_bit_is_set() -> None:
    pages = entries(PRESENT | SOFT_DIRTY, PRESENT, PRESENT | FILE | SOFT_DIRTY, SOFT_DIRTY, 0)
    assert soft_dirty._written_marks(pages) == b"\1\0\0\0\0"


def test_no_pages_have_no_marks() -> None:
    assert soft_dirty._written_marks(b"") == b""


@dataclass
class Broken:
    def unbroken(self) -> bool:
        return False


def test_all_pages_of_a_new_process_count() -> None:
    tracker = SoftDirtyTracker(lambda: nullcontext(Broken()))
    pages = (PageRange(7, 0x1000, 3),)
    assert tracker.final_candidates(Process(inside=7, outside=1 << 30), pages) == pages


def test_a_process_that_has_ended_has_no_pages() -> None:
    tracker = SoftDirtyTracker(lambda: nullcontext(Broken()))
    assert tracker.candidates(Process(inside=7, outside=1 << 30)) == ()
