"""The images of a dump as the body of a request: a tar archive, in blocks.

The pages of private memory are not in it; they go to the target on their own. Files are read and
written in threads, so that the event loop can serve other containers.
"""

from __future__ import annotations

import asyncio
import tarfile
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Refused

BLOCK_BYTES = 1 << 20
"""What one call in a thread reads or writes."""
_UNIT = tarfile.BLOCKSIZE
_END = bytes(2 * _UNIT)


def size(folder: Path) -> int:
    """Return the size of the body that `stream` yields."""
    files = (path.stat().st_size for path in _files(folder))
    return sum(_UNIT + length + _padding(length) for length in files) + len(_END)


def too_large(size_bytes: int, *, most: int) -> Refused:
    """Build the error for images that are larger than `most` bytes."""
    size_text, limit_text = mebibytes(size_bytes), mebibytes(most)
    return Refused(
        f"CRIU's images of the container are {size_text}, the limit is {limit_text}",
        reason=Reason.STATE_TOO_LARGE,
        hint=Reason.STATE_TOO_LARGE.hint,
    )


def mebibytes(count: int) -> str:
    """Format a size, rounded up so that a size above a limit looks like it."""
    return f"{-(-count // 2**20)} MiB"


async def stream(folder: Path) -> AsyncIterator[bytes]:
    """Yield an archive of the regular files in a folder, by their names alone."""
    blocks = _joined(_parts(folder))
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block


async def gathered(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Join pieces to blocks; the pieces from a socket are a hundred times smaller."""
    waiting: list[bytes] = []
    length = 0
    async for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        if length >= BLOCK_BYTES:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


class Unpacker:
    """Writes the files of an archive into a folder. Blocking; always close it."""

    def __init__(self, folder: Path, *, most: int) -> None:
        self._folder = folder
        self._most = most
        self._received = 0
        self._waiting = b""
        self._file: BinaryIO | None = None
        # bytes that are missing of the current file, and of the padding behind it
        self._content = 0
        self._padding = 0
        self._ended = False

    def feed(self, block: bytes) -> None:
        """Write a block. Raises InvalidInput for a malformed archive, Refused beyond the limit."""
        self._received += len(block)
        if self._received > self._most:
            raise too_large(self._received, most=self._most)
        rest = memoryview(self._waiting + block)
        while rest and not self._ended:
            if self._content or self._padding:
                rest = self._take(rest)
            elif len(rest) < _UNIT:
                break
            else:
                self._begin(bytes(rest[:_UNIT]))
                rest = rest[_UNIT:]
        self._waiting = b"" if self._ended else bytes(rest)

    def finish(self) -> None:
        """Raise InvalidInput when the archive is not complete."""
        if not self._ended:
            raise _damaged("it is not complete")

    def close(self) -> None:
        """Close the current file. Can be repeated."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, head: bytes) -> None:
        self.close()
        if head == _END[:_UNIT]:
            self._ended = True
            return
        try:
            member = tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
        except tarfile.TarError as e:
            raise _damaged(str(e)) from e
        if not member.isreg() or Path(member.name).name != member.name:
            raise _damaged(f"{member.name!r} is no plain file name")
        self._file = (self._folder / member.name).open("wb")
        self._content, self._padding = member.size, _padding(member.size)

    def _take(self, data: memoryview) -> memoryview:
        content = data[: self._content]
        if self._file is not None:
            self._file.write(content)
        self._content -= len(content)
        skipped = min(self._padding, len(data) - len(content))
        self._padding -= skipped
        return data[len(content) + skipped :]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink())


def _parts(folder: Path) -> Iterator[bytes]:
    for path in _files(folder):
        with path.open("rb") as file:
            # `gettarinfo` would look up the owner of the file
            header = tarfile.TarInfo(path.name)
            header.size = path.stat().st_size
            yield header.tobuf(tarfile.USTAR_FORMAT)
            while piece := file.read(BLOCK_BYTES):
                yield piece
            yield bytes(_padding(header.size))
    yield _END


def _joined(parts: Iterator[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    length = 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        if length >= BLOCK_BYTES:
            yield b"".join(waiting)
            waiting, length = [], 0
    if waiting:
        yield b"".join(waiting)


def _padding(length: int) -> int:
    return -length % _UNIT


def _damaged(why: str) -> InvalidInput:
    return InvalidInput(f"reading the images of a dump: {why}", reason="ImagesDamaged")
