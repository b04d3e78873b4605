import os
from collections.abc import Iterator

import pytest

from fakes.stored import content
from transship.linux.pages import CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES, PageRange
from transship.memory.page_server.page_index import Milestone
from transship.memory.page_server.page_store import PageStore


@pytest.fixture
def store() -> Iterator[PageStore]:
    store = PageStore(capacity=8 * CHUNK_BYTES)
    yield store
    store.close()


def put(store: PageStore, pages: PageRange, content: bytes) -> None:
    at = 0
    for view in store.room(pages):
        view[:] = content[at : at + len(view)]
        at += len(view)
    store.keep(pages)


def test_pages_are_stored_across_the_bounds_of_chunks(store: PageStore) -> None:
    pages = PageRange(7, CHUNK_BYTES - 2 * PAGE_BYTES, 5)
    stored = bytes(range(1, 6)) * PAGE_BYTES
    put(store, pages, stored)
    assert content(store, pages) == stored


def test_a_page_that_was_never_stored_is_missing_and_not_zeros(store: PageStore) -> None:
    put(store, PageRange(7, 0, 1), b"a" * PAGE_BYTES)
    assert store.not_stored([PageRange(8, 0, 1)]) == (PageRange(8, 0, 1),)
    assert store.not_stored([PageRange(7, 0, 3)]) == (PageRange(7, PAGE_BYTES, 2),)


def test_reserving_memory_stores_nothing(store: PageStore) -> None:
    pages = PageRange(7, 0, CHUNK_PAGES + 3)
    store.reserve([pages])
    assert store.not_stored([pages]) == (pages,)


def test_pages_of_zeros_can_be_between_other_pages(store: PageStore) -> None:
    put(store, PageRange(7, 0, 1), b"a" * PAGE_BYTES)
    store.keep_zero(PageRange(7, PAGE_BYTES, 2))
    put(store, PageRange(7, 3 * PAGE_BYTES, 1), b"b" * PAGE_BYTES)
    expected = b"a" * PAGE_BYTES + bytes(2 * PAGE_BYTES) + b"b" * PAGE_BYTES
    assert content(store, PageRange(7, 0, 4)) == expected


def test_a_page_being_replaced_is_missing_until_all_of_it_has_arrived(
    store: PageStore,
) -> None:
    page = PageRange(7, 0, 1)
    put(store, page, b"a" * PAGE_BYTES)
    store.room(page)
    assert store.not_stored([page]) == (page,)
    store.keep(page)
    assert store.not_stored([page]) == ()


def test_zeros_and_content_replace_each_other(store: PageStore) -> None:
    page = PageRange(7, 0, 1)
    put(store, page, b"a" * PAGE_BYTES)
    store.keep_zero(page)
    assert content(store, page) == bytes(PAGE_BYTES)
    put(store, page, b"b" * PAGE_BYTES)
    assert content(store, page) == b"b" * PAGE_BYTES


def test_missing_pages_are_counted(store: PageStore) -> None:
    put(store, PageRange(7, 0, 2), b"a" * 2 * PAGE_BYTES)
    store.expect([PageRange(7, 0, 4), PageRange(8, 0, 1)])
    assert store.missing == 3
    put(store, PageRange(7, PAGE_BYTES, 9), b"b" * 9 * PAGE_BYTES)
    assert store.missing_ranges() == (PageRange(8, 0, 1),)
    store.room(PageRange(7, 0, 1))
    assert store.missing == 2
    store.keep_zero(PageRange(8, 0, 1))
    store.forget([PageRange(7, 0, 2)])
    assert store.missing_ranges() == (PageRange(7, 0, 2),)


def test_once_final_the_first_content_stays(store: PageStore) -> None:
    put(store, PageRange(7, PAGE_BYTES, 1), b"a" * PAGE_BYTES)
    store.note(Milestone.FINAL)
    put(store, PageRange(7, 0, 3), b"b" * 3 * PAGE_BYTES)
    store.keep_zero(PageRange(7, 0, 4))
    expected = b"b" * PAGE_BYTES + b"a" * PAGE_BYTES + b"b" * PAGE_BYTES + bytes(PAGE_BYTES)
    assert content(store, PageRange(7, 0, 4)) == expected


def test_spent_pages_are_freed_chunk_by_chunk(store: PageStore) -> None:
    pages = PageRange(7, 0, CHUNK_PAGES + 1)
    put(store, pages, b"a" * pages.bytes)
    store.expect([pages])
    store.spend(PageRange(7, 0, CHUNK_PAGES - 1))
    full = os.fstat(store.fd).st_blocks
    store.spend(PageRange(7, (CHUNK_PAGES - 1) * PAGE_BYTES, 1))
    assert os.fstat(store.fd).st_blocks < full / 100
    assert store.missing == 0
    assert content(store, PageRange(7, CHUNK_BYTES, 1)) == b"a" * PAGE_BYTES


def test_a_chunk_is_not_freed_while_a_page_of_it_arrives(store: PageStore) -> None:
    put(store, PageRange(7, 0, 1), b"a" * PAGE_BYTES)
    store.expect([PageRange(7, 0, 2)])
    coming = PageRange(7, PAGE_BYTES, 1)
    store.room(coming)[0][:] = b"b" * PAGE_BYTES
    store.spend(PageRange(7, 0, 1))
    store.keep(coming)
    assert content(store, coming) == b"b" * PAGE_BYTES


def test_another_store_on_the_same_memory_continues_with_it(store: PageStore) -> None:
    put(store, PageRange(7, 0, 2), b"a" * 2 * PAGE_BYTES)
    store.expect([PageRange(7, 0, 3)])
    store.note(Milestone.FINAL)
    fds = (os.dup(store.fd), os.dup(store.index_fd))
    other = PageStore(fd=fds[0], index_fd=fds[1], capacity=8 * CHUNK_BYTES)
    assert (other.final, other.ended, other.missing) == (True, False, 1)
    assert content(other, PageRange(7, 0, 2)) == b"a" * 2 * PAGE_BYTES
    other.close()
