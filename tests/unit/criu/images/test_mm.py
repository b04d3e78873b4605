from __future__ import annotations

import struct

import pytest

from transship.common.errors import TransshipError
from transship.criu.images import mm as mm_images
from transship.criu.images.mm import COMMON_MAGIC, MM_MAGIC, corrected
from transship.criu.rpc import bytes_field, number_field, number_in, parse, split

START, END, STATUS, MAPPINGS = 1, 2, 7, 14


def mapping(start: int, end: int) -> bytes:
    values = {1: start, 2: end, 3: 0, 4: 0, 5: 3, 6: 0x22, 7: 0x201, 8: 1}
    return b"".join(number_field(number, value) for number, value in values.items())


def image(*mappings: tuple[int, int]) -> bytes:
    body = number_field(1, 0x400000) + b"".join(
        bytes_field(MAPPINGS, mapping(*one)) for one in mappings
    )
    body += number_field(15, 1)
    return struct.pack("<III", COMMON_MAGIC, MM_MAGIC, len(body)) + body


def mappings_in(image: bytes) -> list[tuple[int, int, int]]:
    mappings = [
        parse(value)
        for number, value, _ in split(image[12:])
        if number == MAPPINGS and isinstance(value, bytes)
    ]
    return [
        (number_in(entry, START), number_in(entry, END), number_in(entry, STATUS))
        for entry in mappings
    ]


def test_nothing_to_correct_leaves_the_image_as_it_is() -> None:
    plain = image((0x1000, 0x2000), (0x7F0000000000, 0x7F0000001000))
    assert corrected(plain, ends={}) == plain


def test_a_mapping_gets_its_true_end_and_keeps_the_rest() -> None:
    shown = image((0x1000, 0x2000), (0x7F0000000000, 0x7F0000001000))
    true = image((0x1000, 0x2000), (0x7F0000000000, 0x7F0100000000))
    assert corrected(shown, ends={0x7F0000000000: 0x7F0100000000}) == true


def test_guard_pages_are_added_as_criu_does() -> None:
    got = corrected(image((0x1000, 0x9000)), ends={}, guards=[(0x2000, 0x3000), (0x5000, 0x7000)])
    guard = mm_images.GUARD_STATUS
    assert mappings_in(got) == [
        (0x1000, 0x9000, 0x201), (0x2000, 0x3000, guard), (0x5000, 0x7000, guard)
    ]  # fmt: skip
    assert struct.unpack_from("<I", got, 8)[0] == len(got) - 12


def test_a_mapping_that_is_not_there_is_an_error() -> None:
    with pytest.raises(TransshipError, match="one of them is not there"):
        corrected(image((0x1000, 0x2000)), ends={0x3000: 0x9000})


@pytest.mark.parametrize("cut", [3, 11, 20, 30])
def test_a_damaged_image_is_an_error(cut: int) -> None:
    with pytest.raises(TransshipError, match="malformed"):
        corrected(image((0x1000, 0x2000))[:cut], ends={})
