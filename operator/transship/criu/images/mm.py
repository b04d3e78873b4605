"""Corrects the image of a process's mappings, of which CRIU saw less in a dump. Pure.

A `mm-<pid>.img` is two magic numbers, a length and one message (images/mm.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from transship.common.errors import TransshipError
from transship.criu.rpc import bytes_field, number_field, number_in, parse, split

COMMON_MAGIC = 0x54564319
MM_MAGIC = 0x57492820
GUARD_STATUS = 1 << 16

_HEADER = struct.Struct("<III")
# a field of mm_entry
_MAPPINGS = 14
# fields of vma_entry
_START, _END, _OFFSET, _SHARED, _ACCESS, _FLAGS, _STATUS, _FD = range(1, 9)
# -1 as a sint64
_NO_FD = 1


def corrected(
    image: bytes, *, ends: Mapping[int, int], guards: Iterable[tuple[int, int]] = ()
) -> bytes:
    """Return the image with the true `ends` of mappings, by their start, and with guard pages.

    Raises TransshipError for a malformed image, and when a mapping is missing in it.
    """
    try:
        corrected_starts: set[int] = set()
        parts = [
            _corrected(*field, ends=ends, starts=corrected_starts) for field in split(_body(image))
        ]
    except (ValueError, IndexError, struct.error) as e:
        raise TransshipError("reading the mappings of a dump: malformed image") from e
    if corrected_starts != set(ends):
        raise TransshipError("correcting the mappings of a dump: one of them is not there")
    parts += [bytes_field(_MAPPINGS, _guard(start, end)) for start, end in guards]
    new = b"".join(parts)
    return _HEADER.pack(COMMON_MAGIC, MM_MAGIC, len(new)) + new


def _body(image: bytes) -> bytes:
    body = image[_HEADER.size :]
    if _HEADER.unpack_from(image) != (COMMON_MAGIC, MM_MAGIC, len(body)):
        raise ValueError(image[: _HEADER.size])
    return body


def _corrected(
    number: int, value: int | bytes, raw: bytes, *, ends: Mapping[int, int], starts: set[int]
) -> bytes:
    if number != _MAPPINGS or isinstance(value, int):
        return raw
    start = number_in(parse(value), _START)
    if start not in ends:
        return raw
    starts.add(start)
    fields = [
        number_field(_END, ends[start]) if number == _END else field
        for number, _, field in split(value)
    ]
    return bytes_field(_MAPPINGS, b"".join(fields))


def _guard(start: int, end: int) -> bytes:
    values = {_START: start, _END: end, _OFFSET: 0, _SHARED: 0, _ACCESS: 0, _FLAGS: 0}
    fields = {**values, _STATUS: GUARD_STATUS, _FD: _NO_FD}
    return b"".join(number_field(number, value) for number, value in fields.items())
