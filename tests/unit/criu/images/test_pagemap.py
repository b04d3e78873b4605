from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.criu.images import pagemap as pagemaps
from transship.criu.images.pagemap import LazyRange

# By CRIU 4.2.1 from a Python program: a head, and 7 of its 170 entries, of which 4 are lazy.
SAMPLE = bytes.fromhex(
    "1943565425400856"
    "02000000 0801"
    "0b000000 0880c0ef0510002004281c"
    "0b000000 0880a0f805100020042801"
    "0b000000 0880c0f805100020022801"
    "0b000000 0880c0fa05100020022801"
    "0b000000 0880c08a06100020022802"
    "0e000000 0880a0e5b3a0fb1f100020042803"
    "0e000000 0880a0b3b4a0fb1f100020022801"
)
RANGES = [
    LazyRange(7, address=0xBE2000, pages=1),
    LazyRange(7, address=0xBEA000, pages=1),
    LazyRange(7, address=0xC2A000, pages=2),
    LazyRange(7, address=0x7FDA068CD000, pages=1),
]


def test_the_pages_that_an_image_leaves_out_are_known() -> None:
    assert pagemaps.lazy_ranges(SAMPLE, process=7) == RANGES


def test_an_image_with_all_its_pages_leaves_none_out() -> None:
    lazy_and_present = SAMPLE.replace(b"\x20\x02", b"\x20\x06")
    assert pagemaps.lazy_ranges(lazy_and_present, process=7) == []


def test_the_number_of_pages_may_be_in_the_older_field() -> None:
    older = SAMPLE[:14] + b"\x09\0\0\0" + b"\x08\x80\x20\x10\x05\x20\x02\x18\x00"
    assert pagemaps.lazy_ranges(older, process=1) == [LazyRange(1, address=4096, pages=5)]


def test_all_processes_are_read_and_shared_memory_is_not(tmp_path: Path) -> None:
    for name in ("pagemap-1.img", "pagemap-23.img", "pagemap-shmem-4.img", "pages-1.img"):
        (tmp_path / name).write_bytes(SAMPLE)
    assert {one.process for one in pagemaps.read(tmp_path)} == {1, 23}


@pytest.mark.parametrize("image", [b"", SAMPLE[:6], SAMPLE[:-1], b"\0" + SAMPLE[1:]])
def test_what_is_no_pagemap_is_refused(image: bytes) -> None:
    with pytest.raises(TransshipError, match="malformed"):
        pagemaps.lazy_ranges(image, process=1)


def test_further_ranges_are_put_among_the_others_in_order() -> None:
    more = [(0xBE3000, 0xBE5000), (0x7FFFFFFFE000, 0x7FFFFFFFF000)]
    image = pagemaps.with_lazy(SAMPLE, more)
    expected = [
        *RANGES, LazyRange(7, 0xBE3000, pages=2), LazyRange(7, 0x7FFFFFFFE000, pages=1)
    ]  # fmt: skip
    found = pagemaps.lazy_ranges(image, process=7)
    assert found == sorted(expected, key=lambda one: one.address)
    assert len(image) > len(SAMPLE)


def test_no_further_range_leaves_the_image_as_it_is() -> None:
    assert pagemaps.with_lazy(SAMPLE, []) == SAMPLE


def test_a_damaged_image_gets_no_ranges() -> None:
    with pytest.raises(TransshipError):
        pagemaps.with_lazy(SAMPLE[:-1], [(0x1000, 0x2000)])
