import pytest

from transship.transfer.page_ranges import CHUNK_BYTES, CHUNK_PAGES, PAGE_BYTES, PageRange
from transship.transfer.page_store import PageMissing, PageStore


@pytest.fixture
def store():
    made = PageStore(capacity=8 * CHUNK_BYTES)
    yield made
    made.close()


def put(store: PageStore, pages: PageRange, content: bytes) -> None:
    at = 0
    for view in store.room(pages):
        view[:] = content[at : at + len(view)]
        at += len(view)
    store.keep(pages)


def content(store: PageStore, pages: PageRange) -> bytes:
    return b"".join(store.view(pages))


def test_pages_come_back_also_across_the_bounds_of_chunks(store: PageStore) -> None:
    pages = PageRange(7, CHUNK_BYTES - 2 * PAGE_BYTES, 5)
    stored = bytes(range(1, 6)) * PAGE_BYTES
    put(store, pages, stored)
    assert content(store, pages) == stored
    assert store.stored_pages == 5


def test_a_page_that_was_never_stored_is_an_error_and_not_zeros(store: PageStore) -> None:
    put(store, PageRange(7, 0, 1), b"a" * PAGE_BYTES)
    with pytest.raises(PageMissing):
        store.view(PageRange(7, 0, 2))
    with pytest.raises(PageMissing):
        store.view(PageRange(8, 0, 1))
    assert store.missing([PageRange(7, 0, 3)]) == (PageRange(7, PAGE_BYTES, 2),)


def test_reserving_memory_stores_nothing(store: PageStore) -> None:
    pages = PageRange(7, 0, CHUNK_PAGES + 3)
    store.reserve([pages])
    assert store.missing([pages]) == (pages,)


def test_known_zeros_lie_between_other_pages(store: PageStore) -> None:
    put(store, PageRange(7, 0, 1), b"a" * PAGE_BYTES)
    store.keep_zero(PageRange(7, PAGE_BYTES, 2))
    put(store, PageRange(7, 3 * PAGE_BYTES, 1), b"b" * PAGE_BYTES)
    expected = b"a" * PAGE_BYTES + bytes(2 * PAGE_BYTES) + b"b" * PAGE_BYTES
    assert content(store, PageRange(7, 0, 4)) == expected


def test_a_page_being_replaced_counts_as_missing_until_all_of_it_is_there(
    store: PageStore,
) -> None:
    page = PageRange(7, 0, 1)
    put(store, page, b"a" * PAGE_BYTES)
    store.room(page)
    assert store.missing([page]) == (page,)
    store.keep(page)
    assert store.missing([page]) == ()


def test_zeros_and_content_replace_each_other(store: PageStore) -> None:
    page = PageRange(7, 0, 1)
    put(store, page, b"a" * PAGE_BYTES)
    store.keep_zero(page)
    assert content(store, page) == bytes(PAGE_BYTES)
    put(store, page, b"b" * PAGE_BYTES)
    assert content(store, page) == b"b" * PAGE_BYTES
