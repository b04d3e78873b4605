"""CRIU's images of a dump as one body: a tar archive in blocks, never whole in memory.

The pages of private memory are not among them: they went to the target during the dump.
Files are read and written in threads, since an event loop serves other containers meanwhile.
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
"""Of the body, for one call of a thread."""
_UNIT = tarfile.BLOCKSIZE
_END = bytes(2 * _UNIT)


def size(folder: Path) -> int:
    """Of the body that `stream` makes."""
    files = (path.stat().st_size for path in _files(folder))
    return sum(_UNIT + length + _padding(length) for length in files) + len(_END)


def too_large(found: int, *, most: int) -> Refused:
    return Refused(
        f"CRIU's images of the container are {mebibytes(found)}, the limit is {mebibytes(most)}",
        reason=Reason.STATE_TOO_LARGE,
        hint=Reason.STATE_TOO_LARGE.hint,
    )


def mebibytes(count: int) -> str:
    """Rounded up: what is said to be above a limit has to look so."""
    return f"{-(-count // 2**20)} MiB"


async def stream(folder: Path) -> AsyncIterator[bytes]:
    """All regular files of a folder, by their bare names."""
    blocks = _joined(_parts(folder))
    while block := await asyncio.to_thread(next, blocks, b""):
        yield block


async def gathered(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in blocks: what comes from a socket is a hundred times smaller."""
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
    """Writes the files of a body into a folder, block by block. Blocking; always close it."""

    def __init__(self, folder: Path, *, most: int) -> None:
        self._folder = folder
        self._most = most
        self._got = 0
        self._waiting = b""
        self._file: BinaryIO | None = None
        self._content = 0  # still to come of the present file
        self._padding = 0  # and behind it
        self._ended = False

    def feed(self, block: bytes) -> None:
        """Raises InvalidInput when it belongs to no such archive, Refused beyond the limit."""
        self._got += len(block)
        if self._got > self._most:
            raise too_large(self._got, most=self._most)
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
        """Raises InvalidInput when the body is cut."""
        if not self._ended:
            raise _damaged("it is cut")

    def close(self) -> None:
        """Can be repeated."""
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
            about = tarfile.TarInfo(path.name)  # `gettarinfo` would look up whose the file is
            about.size = path.stat().st_size
            yield about.tobuf(tarfile.USTAR_FORMAT)
            while piece := file.read(BLOCK_BYTES):
                yield piece
            yield bytes(_padding(about.size))
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
