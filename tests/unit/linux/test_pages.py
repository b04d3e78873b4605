from hypothesis import given
from hypothesis import strategies as st

from transship.linux.pages import (
    CHUNK_PAGES,
    PAGE_BYTES,
    PageRange,
    PageSet,
    batches,
    joined,
    total,
)


def at(page: int, pages: int, *, pid: int = 1) -> PageRange:
    return PageRange(pid, page * PAGE_BYTES, pages)


def test_neighbours_and_overlaps_are_joined_but_not_across_processes() -> None:
    assert joined([at(3, 2), at(0, 3), at(4, 2), at(6, 1, pid=2)]) == (at(0, 6), at(6, 1, pid=2))


def test_batches_cut_ranges_and_hold_one_process_each() -> None:
    cut = list(batches([at(0, 3), at(9, 2), at(0, 1, pid=2)], pages=4))
    assert cut == [(at(0, 3), at(9, 1)), (at(10, 1),), (at(0, 1, pid=2),)]


def test_a_batch_that_is_full_to_the_page_has_no_empty_follower() -> None:
    assert list(batches([at(0, 8)], pages=4)) == [(at(0, 4),), (at(4, 4),)]


def test_a_set_knows_what_is_missing_across_chunks() -> None:
    pages = PageSet()
    pages.add([at(CHUNK_PAGES - 2, 4)])
    pages.discard([at(CHUNK_PAGES, 1)])
    wanted = [at(CHUNK_PAGES - 3, 6)]
    assert pages.missing(wanted) == (
        at(CHUNK_PAGES - 3, 1),
        at(CHUNK_PAGES, 1),
        at(CHUNK_PAGES + 2, 1),
    )
    assert len(pages) == 3


_RANGES = st.lists(
    st.builds(
        at, st.integers(0, 3 * CHUNK_PAGES), st.integers(1, CHUNK_PAGES), pid=st.integers(1, 2)
    ),
    max_size=6,
)


def _pages(ranges: list[PageRange] | tuple[PageRange, ...]) -> set[tuple[int, int]]:
    return {
        (one.pid, one.address // PAGE_BYTES + number)
        for one in ranges
        for number in range(one.pages)
    }


@given(added=_RANGES, dropped=_RANGES, asked=_RANGES)
def test_a_set_of_ranges_behaves_as_a_set_of_pages(
    added: list[PageRange], dropped: list[PageRange], asked: list[PageRange]
) -> None:
    pages = PageSet()
    pages.add(added)
    pages.discard(dropped)
    model = _pages(added) - _pages(dropped)
    assert _pages(pages.missing(asked)) == _pages(asked) - model
    assert len(pages) == len(model)


@given(ranges=_RANGES, size=st.integers(1, 700))
def test_batches_lose_and_repeat_nothing(ranges: list[PageRange], size: int) -> None:
    cut = [one for batch in batches(ranges, pages=size) for one in batch]
    assert total(cut) == total(ranges)
    assert _pages(cut) == _pages(ranges)
