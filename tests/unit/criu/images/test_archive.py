"""The images of a dump as one body."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import threading
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, Refused
from transship.criu.images import archive as images
from transship.criu.images.archive import BLOCK_BYTES, Unpacker, gathered, stream

LIMIT = 64 << 20


def archive(name: str) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    return body.getvalue()


async def packed(folder: Path) -> list[bytes]:
    return [block async for block in stream(folder)]


def unpack(blocks: Iterable[bytes], folder: Path, *, most: int = LIMIT) -> None:
    unpacker = Unpacker(folder, most=most)
    try:
        for block in blocks:
            unpacker.feed(block)
        unpacker.finish()
    finally:
        unpacker.close()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "work").mkdir(parents=True)
    (folder / "core-1.img").write_bytes(bytes(range(256)))
    (folder / "empty.img").write_bytes(b"")
    (folder / "ghost-file-1.img").write_bytes(os.urandom(2 * BLOCK_BYTES + 700))
    (folder / "link").symlink_to("core-1.img")
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


async def test_what_is_unpacked_is_what_was_packed(source: Path, target: Path) -> None:
    blocks = await packed(source)
    unpack(blocks, target)
    (source / "link").unlink()
    assert content(target) == content(source)
    assert all(len(block) <= 2 * BLOCK_BYTES for block in blocks)


async def test_the_size_is_known_before(source: Path) -> None:
    assert images.size(source) == sum(map(len, await packed(source)))


async def test_any_tar_reads_it(source: Path) -> None:
    body = io.BytesIO(b"".join(await packed(source)))
    with tarfile.open(fileobj=body, mode="r:") as found:
        assert found.getnames() == ["core-1.img", "empty.img", "ghost-file-1.img"]


@given(st.lists(st.integers(1, 3000), min_size=1))
def test_it_may_be_cut_anywhere_on_its_way(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("source")
    target = tmp_path_factory.mktemp("target")
    for number, size in enumerate((0, 1, 511, 512, 513, 2000)):
        (folder / f"{number}.img").write_bytes(os.urandom(size))
    body = b"".join(asyncio.run(packed(folder)))
    edges = [0, *(edge for edge in sorted({sum(cuts[:n]) for n in range(1, len(cuts) + 1)}))]
    pieces = [body[a:b] for a, b in zip(edges, [*edges[1:], len(body)], strict=True)]
    unpack(pieces, target)
    assert content(target) == content(folder)


async def test_small_pieces_are_gathered_to_blocks() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(BLOCK_BYTES // 40)

    found = [len(block) async for block in gathered(pieces())]
    assert sum(found) == 100 * (BLOCK_BYTES // 40)
    assert len(found) == 3


async def test_the_event_loop_reads_no_file(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: set[int] = set()
    opened = Path.open

    def recording(path: Path, mode: str) -> IO[Any]:
        readers.add(threading.get_ident())
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", recording)
    await packed(source)
    assert readers
    assert threading.get_ident() not in readers


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "folder/file"])
def test_a_name_that_leads_out_of_the_folder_is_refused(target: Path, name: str) -> None:
    with pytest.raises(InvalidInput):
        unpack([archive(name)], target)
    assert list(target.iterdir()) == []


def test_a_damaged_body_is_refused(target: Path) -> None:
    with pytest.raises(InvalidInput):
        unpack([b"no archive at all, but long enough to be looked at as one" * 20], target)


async def test_a_body_that_is_cut_is_refused(source: Path, target: Path) -> None:
    body = b"".join(await packed(source))
    for length in (0, 100, 600, len(body) - 1024):
        with pytest.raises(InvalidInput, match="not complete"):
            unpack([body[:length]], target)


async def test_a_body_beyond_the_limit_is_refused_with_both_sizes(
    source: Path, target: Path
) -> None:
    with pytest.raises(Refused, match=r"are 2 MiB, the limit is 1 MiB") as caught:
        unpack(await packed(source), target, most=1 << 20)
    assert caught.value.reason == Reason.STATE_TOO_LARGE
    assert caught.value.hint
