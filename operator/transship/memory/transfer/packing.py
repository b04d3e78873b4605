"""zstd compression of a batch of pages. Imports little: the page server has to start fast."""

from __future__ import annotations

import zstandard

LEVEL = -1
"""600 MB/s and more of one core at a ratio of 2.9 (program data); level 1: 310 MB/s, 3.3."""


class Packer:
    """Compresses. It keeps zstd's working memory: allocating it costs more than a small batch."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)

    def pack(self, data: bytes | bytearray | memoryview) -> bytes:
        return self._zstd.compress(data)


class Unpacker:
    """Decompresses."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def unpack(self, data: memoryview, rooms: list[memoryview]) -> bool:
        """Fill the rooms one after the other. Returns whether the data filled them exactly.

        zstd copies in strides: meanwhile a room may have other bytes than in the end.
        """
        try:
            with self._zstd.stream_reader(data) as reader:
                filled = all(_fill(reader, room) for room in rooms)
                return filled and not reader.read(1)
        except zstandard.ZstdError:
            return False

    def unpack_apart(self, data: memoryview, rooms: list[memoryview]) -> bool:
        """Do the same for rooms that other threads fill and read: they get only final bytes."""
        apart = memoryview(bytearray(sum(len(room) for room in rooms)))
        if not self.unpack(data, [apart]):
            return False
        at = 0
        for room in rooms:
            room[:] = apart[at : at + len(room)]
            at += len(room)
        return True


def _fill(reader: zstandard.ZstdDecompressionReader, room: memoryview) -> bool:
    at = 0
    while at < len(room):
        got = reader.readinto(room[at:])
        if got == 0:
            return False
        at += got
    return True
