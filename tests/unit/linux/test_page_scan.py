from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from transship.linux import page_scan
from transship.linux.page_scan import PAGE_BYTES, SLICE_BYTES

pytestmark = pytest.mark.skipif(not page_scan.supported(), reason="needs Linux 6.16")

MADV_GUARD_INSTALL = 102


@pytest.fixture
def area() -> tuple[mmap.mmap, int]:
    """Larger than what is scanned in one go."""
    made = mmap.mmap(-1, 2 * SLICE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    return made, ctypes.addressof(ctypes.c_char.from_buffer(made))


def test_pages_that_were_written_are_found(area: tuple[mmap.mmap, int]) -> None:
    made, start = area
    pages = [0, 3, 4, SLICE_BYTES // PAGE_BYTES - 1, SLICE_BYTES // PAGE_BYTES]
    for page in pages:
        made[page * PAGE_BYTES] = 1
    made[10 * PAGE_BYTES]  # reads the page of zeros
    found = page_scan.scan(os.getpid(), [(start, start + len(made))]).present
    covered = [at for first, last in found for at in range(first, last, PAGE_BYTES)]
    assert covered == [start + page * PAGE_BYTES for page in pages]


def test_more_runs_than_fit_into_one_answer_are_all_found(area: tuple[mmap.mmap, int]) -> None:
    made, start = area
    for page in range(0, 10_000, 2):
        made[page * PAGE_BYTES] = 1
    found = page_scan.scan(os.getpid(), [(start, start + len(made))]).present
    assert found == tuple(
        (start + page * PAGE_BYTES, start + (page + 1) * PAGE_BYTES) for page in range(0, 10_000, 2)
    )


def test_guard_pages_are_told_apart(area: tuple[mmap.mmap, int]) -> None:
    made, start = area
    made[0] = 1
    guard = ctypes.c_void_p(start + 8 * PAGE_BYTES)
    libc = ctypes.CDLL(None)
    assert libc.madvise(guard, ctypes.c_size_t(2 * PAGE_BYTES), MADV_GUARD_INSTALL) == 0
    found = page_scan.scan(os.getpid(), [(start, start + len(made))])
    assert found.present == ((start, start + PAGE_BYTES),)
    assert found.guards == ((start + 8 * PAGE_BYTES, start + 10 * PAGE_BYTES),)


def test_a_process_that_has_ended_is_told() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(FileNotFoundError):
        page_scan.scan(child, [(0, PAGE_BYTES)])
