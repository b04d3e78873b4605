"""File trees over a stream: rsync at both ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from transship.common.errors import CommandFailed
from transship.files.change_detection import changes, take_snapshot
from transship.files.rsync import in_folders, receive_trees, send_files, send_in_place, send_trees
from transship.streams.connection import BUFFER_BYTES, Stream

Opener = Callable[[], Awaitable[Stream]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "upper" / "opaque").mkdir(parents=True)
    return root


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
async def opener(target: Path) -> AsyncIterator[Opener]:
    """Each stream is served by one receiver into the target."""

    serving: set[asyncio.Task[object]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        stream = Stream(reader, writer)
        with contextlib.suppress(CommandFailed):  # the source's end has hung up
            await receive_trees(target, stream=stream, timeout_seconds=20)
        await stream.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=BUFFER_BYTES)
    port = server.sockets[0].getsockname()[1]

    async def open_one() -> Stream:
        pair = await asyncio.open_connection("127.0.0.1", port, limit=BUFFER_BYTES)
        return Stream(*pair)

    yield open_one
    server.close()
    await asyncio.gather(*serving)


async def send(opener: Opener, root: Path) -> frozenset[str]:
    stream = await opener()
    sent = await send_trees(root, ["upper"], stream=stream, timeout_seconds=20)
    await stream.close()
    return sent.names


async def send_named(
    opener: Opener, root: Path, files: list[str], *, removed: tuple[str, ...] = ()
) -> None:
    stream = await opener()
    await send_files(root, files, removed=removed, stream=stream, timeout_seconds=20)
    await stream.close()


async def test_everything_that_an_upper_layer_consists_of_arrives(
    source: Path, target: Path, opener: Opener
) -> None:
    upper = source / "upper"
    (upper / "file").write_bytes(os.urandom(100_000))
    os.chown(upper / "file", 1234, 4321)
    (upper / "file").chmod(0o4751)  # after chown, which clears the set-user-ID bit
    os.link(upper / "file", upper / "second name")
    (upper / "link").symlink_to("/absolute/target")
    os.mknod(upper / "whiteout", 0o020000, 0)
    os.mkfifo(upper / "fifo")
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    os.setxattr(
        upper / "file", "security.capability", bytes.fromhex("0100000200040000") + bytes(12)
    )
    with (upper / "sparse").open("wb") as file:
        file.truncate(1 << 24)

    await send(opener, source)

    got = target / "upper"
    stat = (got / "file").stat()
    assert (got / "file").read_bytes() == (upper / "file").read_bytes()
    assert (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o4751, 1234, 4321)
    assert stat.st_mtime_ns == (upper / "file").stat().st_mtime_ns
    assert stat.st_ino == (got / "second name").stat().st_ino
    assert (got / "link").readlink() == Path("/absolute/target")
    assert (got / "whiteout").is_char_device()
    assert (got / "fifo").is_fifo()
    assert os.getxattr(got / "opaque", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(got / "file", "security.capability")
    assert (got / "sparse").stat().st_blocks < 100


async def test_the_result_has_the_names_of_all_sent_files(
    source: Path, target: Path, opener: Opener
) -> None:
    upper = source / "upper"
    for name in ("with space", "new\nline", "octal\\#012", "caf\udce9", "\u00fc", " send x"):
        (upper / name).write_text("1")
    (upper / "folder").mkdir()
    (upper / "link").symlink_to("here")
    os.link(upper / "with space", upper / "second name")
    os.mkfifo(upper / "fifo")
    os.mknod(upper / "whiteout", 0o020000, 0)
    (target / "upper").mkdir()
    (target / "upper" / "unknown here").write_text("to be deleted")
    names = await send(opener, source)
    assert names == {str(path.relative_to(source)) for path in upper.rglob("*")}


async def test_attributes_that_name_inodes_of_the_source_are_not_sent(
    source: Path, target: Path, opener: Opener
) -> None:
    os.setxattr(source / "upper" / "opaque", "trusted.overlay.origin", b"handle")
    await send(opener, source)
    assert os.listxattr(target / "upper" / "opaque") == []


async def test_nor_are_they_sent_with_a_single_file(
    source: Path, target: Path, opener: Opener
) -> None:
    folder = source / "upper" / "opaque" / "new"
    folder.mkdir()
    (folder / "file").write_text("text")
    for each in (source / "upper", source / "upper" / "opaque", folder):
        os.setxattr(each, "trusted.overlay.origin", b"handle")
    await send_named(opener, source, ["upper/opaque/new/file"])
    arrived = target / "upper" / "opaque" / "new"
    assert (arrived / "file").read_text() == "text"
    assert [os.listxattr(each) for each in (arrived, *arrived.parents[:2])] == [[], [], []]
    assert arrived.stat().st_mtime_ns == folder.stat().st_mtime_ns


async def test_a_second_run_removes_files_that_are_gone(
    source: Path, target: Path, opener: Opener
) -> None:
    (source / "upper" / "file").write_text("text")
    await send(opener, source)
    (source / "upper" / "file").unlink()
    await send(opener, source)
    assert not (target / "upper" / "file").exists()


async def test_named_files_are_sent_regardless_of_their_times(
    source: Path, target: Path, opener: Opener
) -> None:
    file = source / "upper" / "a file"
    file.write_text("one")
    await send(opener, source)
    before = file.stat()
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    await send_named(opener, source, ["upper/a file"])
    assert (target / "upper" / "a file").read_text() == "two"


async def test_many_named_files_arrive_as_well(
    source: Path, target: Path, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transship.files.rsync.FEW_NAMES", 0)
    (source / "upper" / "a file").write_text("one")
    await send_named(opener, source, ["upper/a file"])
    assert (target / "upper" / "a file").read_text() == "one"


async def test_a_file_that_is_sent_again_keeps_its_other_names(
    source: Path, target: Path, opener: Opener
) -> None:
    file = source / "upper" / "file"
    file.write_text("one")
    os.link(file, source / "upper" / "second name")
    await send(opener, source)
    seen = take_snapshot(source, ["upper"])
    file.write_text("two")
    found = changes(seen, seen, always=["upper/file"])
    await send_named(opener, source, list(found.files))
    arrived = (target / "upper" / "file", target / "upper" / "second name")
    assert [path.read_text() for path in arrived] == ["two", "two"]
    assert arrived[0].stat().st_ino == arrived[1].stat().st_ino


async def test_a_named_file_that_has_vanished_is_removed(
    source: Path, target: Path, opener: Opener
) -> None:
    upper = source / "upper"
    names = ["upper/folder/a/b", "upper/folder/c", "upper/file", "upper/kept"]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("one")
    await send(opener, source)
    (upper / "kept").write_text("changed")
    (upper / "file").unlink()
    shutil.rmtree(upper / "folder")
    await send_named(opener, source, names)
    assert sorted(path.name for path in (target / "upper").iterdir()) == ["kept", "opaque"]
    assert (target / "upper" / "kept").read_text() == "changed"


@pytest.mark.parametrize("other", ["file", "symbolic link"])
async def test_names_below_what_is_no_folder_any_more_can_be_left_out(
    source: Path, target: Path, opener: Opener, other: str
) -> None:
    (source / "elsewhere").mkdir()
    (source / "elsewhere" / "a").write_text("not the container's")
    folder = source / "upper" / "folder"
    folder.mkdir()
    names = ["upper/folder/a", "upper/kept"]
    for name in names:
        (source / name).write_text("one")
    await send(opener, source)
    shutil.rmtree(folder)
    if other == "file":
        folder.write_text("file")
    else:
        folder.symlink_to("../elsewhere")
    assert in_folders(source, names) == ["upper/kept"]
    await send_named(opener, source, in_folders(source, names))
    assert (target / "upper" / "folder" / "a").read_text() == "one"  # the next look will tell


async def test_a_removed_folder_is_removed_with_all_files_below_it(
    source: Path, target: Path, opener: Opener
) -> None:
    upper = source / "upper"
    for name in ("folder/a/b", "becomes a file/c", "stays/d"):
        (upper / name).parent.mkdir(parents=True)
        (upper / name).write_text(name)
    (upper / "becomes a folder").write_text("file")
    await send(opener, source)
    shutil.rmtree(upper / "folder")
    shutil.rmtree(upper / "becomes a file")
    (upper / "becomes a file").write_text("file")
    (upper / "becomes a folder").unlink()
    (upper / "becomes a folder").mkdir()
    (upper / "becomes a folder/e").write_text("new")
    (upper / "stays/d").unlink()
    await send_named(
        opener,
        source,
        ["upper/becomes a file", "upper/becomes a folder", "upper/becomes a folder/e"],
        removed=(
            "upper/folder",
            "upper/folder/a",
            "upper/folder/a/b",
            "upper/becomes a file/c",
            "upper/stays/d",
        ),
    )
    found = (target / "upper", *(target / "upper").rglob("*"))
    assert sorted(str(path.relative_to(target)) for path in found) == [
        "upper",
        "upper/becomes a file",
        "upper/becomes a folder",
        "upper/becomes a folder/e",
        "upper/opaque",
        "upper/stays",
    ]
    assert (target / "upper/becomes a file").read_text() == "file"


async def test_in_place_writes_into_the_file_that_is_open_at_the_peer(
    source: Path, target: Path, opener: Opener
) -> None:
    (source / "log").write_text("one\ntwo\n")
    (target / "log").write_text("one\n")
    with (target / "log").open() as opened:
        stream = await opener()
        await send_in_place(source, "log", stream=stream, timeout_seconds=20)
        await stream.close()
        assert opened.read() == "one\ntwo\n"


async def test_a_run_whose_stream_breaks_fails_at_once(source: Path, opener: Opener) -> None:
    (source / "upper/file").write_text("text")
    stream = await opener()
    stream.writer.transport.abort()
    with pytest.raises((CommandFailed, OSError)):
        await send_files(source, ["upper/file"], stream=stream, timeout_seconds=20)
