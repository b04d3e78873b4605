"""Which pages count as changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transship.linux.pages import PAGE_BYTES
from transship.memory.tracking.page_digests import PageDigests, digests

PAGES = st.lists(st.integers(min_value=0, max_value=3), min_size=1, max_size=12)


def memory(letters: list[int]) -> memoryview:
    return memoryview(b"".join(bytes([letter]) * PAGE_BYTES for letter in letters))


@given(first=st.integers(min_value=0, max_value=20), before=PAGES, after=PAGES)
def test_exactly_the_pages_with_another_digest_differ(
    first: int, before: list[int], after: list[int]
) -> None:
    known = PageDigests()
    known.note(first, digests(memory(before)))
    marks = known.differing(first, digests(memory(after)))
    old: list[int | None] = [*before, *[None] * len(after)]
    assert list(marks) == [new != old[at] for at, new in enumerate(after)]


@given(PAGES)
def test_a_page_that_was_never_noted_differs(pages: list[int]) -> None:
    known = PageDigests()
    known.note(20, digests(memory([1])))
    assert known.differing(0, digests(memory(pages))) == b"\1" * len(pages)
    assert known.differing(30, digests(memory(pages))) == b"\1" * len(pages)
