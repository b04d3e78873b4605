from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fakes.agent_files import FakePeer, content
from fakes.orders import peer as peer_called
from transship.agent.migration.ports import Trees
from transship.agent.migration.source import files as filecopy
from transship.agent.migration.source.files import ENOUGH_BYTES, MAX_ROUNDS, FileCopy
from transship.common.errors import TransshipError, Unreachable
from transship.files import change_detection
from transship.files.change_detection import TreeSnapshot, take_snapshot
from transship.files.rsync import SendResult
from transship.streams.bandwidth_limit import BandwidthLimit


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    for name in ("upper", "volumes/data", "shm"):
        (folder / name).mkdir(parents=True)
    (folder / "upper/kept").write_text("kept")
    (folder / "volumes/data/kept").write_text("kept")
    return folder


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePeer]:
    made = FakePeer(tmp_path / "peer")
    made.root.mkdir()
    for name in ("open_stream", "send_trees", "send_files", "send_in_place"):
        monkeypatch.setattr(filecopy, name, getattr(made, name))
    # else every file of these tests has just changed
    monkeypatch.setattr(change_detection, "TICK_NANOSECONDS", -(10**12))
    yield made
    assert [stream for stream in made.streams if stream.is_open] == []


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an inode's last change cannot be set back: here it is never looked at."""

    def look_away(root: Path, names: Iterable[str]) -> TreeSnapshot:
        seen = take_snapshot(root, names)
        fields = [line.split(b" ", 2) for line in seen.lines]
        return TreeSnapshot(seen.taken, frozenset(b" ".join((m, m, rest)) for _, m, rest in fields))

    monkeypatch.setattr(filecopy, "take_snapshot", look_away)


def copy_of(
    home: Path,
    *,
    mapped: Callable[[], frozenset[str]] = frozenset,
    opaque: tuple[str, ...] = (),
    log: str | None = None,
    bandwidth: BandwidthLimit | None = None,
) -> FileCopy:
    return FileCopy(
        home,
        Trees(names=("upper", "volumes", "shm"), opaque=opaque, log=log),
        peer=peer_called(),
        migration="m-1",
        context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        mapped=mapped,
        bandwidth=bandwidth,
    )


async def hand_over(files: FileCopy) -> None:
    await files.make_ready()
    await files.send_difference()
    await files.close()  # of all moves, however they end


async def test_files_that_do_not_change_are_sent_once(home: Path, peer: FakePeer) -> None:
    files = copy_of(home)
    await files.copy()
    await hand_over(files)
    assert peer.runs == ["trees"]
    assert peer.content() == content(home)
    assert files.bytes == 8


async def test_changes_since_the_copy_are_sent_while_frozen(home: Path, peer: FakePeer) -> None:
    files = copy_of(home)
    await files.copy()
    (home / "upper/kept").write_text("changed")
    (home / "upper/new").write_text("new")
    await hand_over(files)
    assert peer.runs == ["trees", "files upper upper/kept upper/new"]
    assert peer.content() == content(home)
    assert files.bytes == 8 + 10


async def test_a_log_goes_into_the_file_that_the_target_has_open(
    home: Path, peer: FakePeer
) -> None:
    (home / "log").write_text("one\n")
    files = copy_of(home, log="log")
    with (peer.root / "log").open("a") as supervisor:
        await files.copy()
        with (home / "log").open("a") as log:
            log.write("two\n")
        await hand_over(files)
        supervisor.write("three\n")
    assert peer.runs == ["trees", "in place log", "in place log"]
    assert (peer.root / "log").read_text() == "one\ntwo\nthree\n"


async def test_a_log_that_does_not_change_is_sent_once(home: Path, peer: FakePeer) -> None:
    (home / "log").write_text("one\n")
    files = copy_of(home, log="log")
    await files.copy()
    await hand_over(files)
    assert peer.runs == ["trees", "in place log"]


async def test_files_removed_since_the_copy_are_removed_on_the_target(
    home: Path, peer: FakePeer
) -> None:
    files = copy_of(home)
    await files.copy()
    (home / "volumes/data/kept").unlink()
    await hand_over(files)
    assert peer.runs == ["trees", "files volumes/data -volumes/data/kept"]
    assert peer.content() == content(home)


async def test_changes_during_the_copy_are_in_the_difference(home: Path, peer: FakePeer) -> None:
    def write_behind() -> None:
        (home / "upper/kept").write_text("written late")

    peer.meanwhile.append(write_behind)
    files = copy_of(home)
    await files.copy()
    await hand_over(files)
    assert peer.content() == content(home)


async def test_large_changes_are_copied_before_the_freeze(home: Path, peer: FakePeer) -> None:
    def write(size: int) -> None:
        (home / "upper/log").write_text("x" * size)

    peer.meanwhile += [lambda: write(8 * ENOUGH_BYTES), lambda: write(ENOUGH_BYTES // 2)]
    files = copy_of(home)
    await files.copy()
    assert peer.runs == ["trees", "files upper upper/log"]
    await hand_over(files)
    assert peer.content() == content(home)


async def test_a_writer_as_fast_as_the_copy_does_not_delay_the_freeze(
    home: Path, peer: FakePeer
) -> None:
    def write(round_number: int) -> None:
        (home / "upper/log").write_text(str(round_number) * 3 * ENOUGH_BYTES)

    peer.meanwhile += [partial(write, n) for n in range(1, 9)]
    files = copy_of(home)
    await files.copy()
    assert peer.runs == ["trees", "files upper upper/log"]
    await hand_over(files)
    assert peer.content() == content(home)


async def test_a_copy_that_gets_ahead_ends_after_some_rounds(home: Path, peer: FakePeer) -> None:
    def write(round_number: int) -> None:
        (home / "upper/log").write_text("x" * ((20 - round_number) * ENOUGH_BYTES))

    peer.meanwhile += [partial(write, n) for n in range(1, 12)]
    files = copy_of(home)
    await files.copy()
    assert peer.runs == ["trees", "files upper upper/log"] + ["files upper/log"] * (MAX_ROUNDS - 1)
    await hand_over(files)
    assert peer.content() == content(home)


@pytest.mark.usefixtures("blind")
async def test_stores_through_a_mapping_are_sent_without_a_new_modification_time(
    home: Path, peer: FakePeer
) -> None:
    files = copy_of(home, mapped=lambda: frozenset({"upper/kept"}))
    await files.copy()
    _store_silently(home / "upper/kept", "tpek")
    await hand_over(files)
    assert peer.runs == ["trees", "files upper/kept"]
    assert peer.content() == content(home)


@pytest.mark.usefixtures("blind")
async def test_stores_into_a_file_unmapped_before_the_freeze_are_sent(
    home: Path, peer: FakePeer
) -> None:
    mapped = {"upper/kept"}

    def store_and_unmap() -> None:
        _store_silently(home / "upper/kept", "tpek")
        mapped.clear()

    peer.meanwhile.append(store_and_unmap)
    files = copy_of(home, mapped=lambda: frozenset(mapped))
    await files.copy()
    await hand_over(files)
    assert peer.runs == ["trees", "files upper/kept"]
    assert peer.content() == content(home)


@pytest.mark.usefixtures("blind")
async def test_stores_after_a_later_copy_are_sent_too(home: Path, peer: FakePeer) -> None:
    mapped: set[str] = set()

    def write_much_and_map() -> None:
        (home / "upper/log").write_text("x" * 2 * ENOUGH_BYTES)
        mapped.add("upper/kept")

    def store_and_unmap() -> None:
        _store_silently(home / "upper/kept", "tpek")
        mapped.clear()

    peer.meanwhile += [write_much_and_map, store_and_unmap]
    files = copy_of(home, mapped=lambda: frozenset(mapped))
    await files.copy()
    await hand_over(files)
    assert peer.content() == content(home)


@pytest.mark.usefixtures("blind")
async def test_a_large_file_that_is_unmapped_is_sent_before_the_freeze(
    home: Path, peer: FakePeer
) -> None:
    (home / "upper/large").write_text("1" * 2 * ENOUGH_BYTES)
    mapped = {"upper/large"}

    def store_and_unmap() -> None:
        _store_silently(home / "upper/large", "2" * 2 * ENOUGH_BYTES)
        mapped.clear()

    peer.meanwhile.append(store_and_unmap)
    files = copy_of(home, mapped=lambda: frozenset(mapped))
    await files.copy()
    assert peer.runs == ["trees", "files upper/large"]
    await hand_over(files)
    assert peer.runs == ["trees", "files upper/large"]
    assert peer.content() == content(home)


async def test_a_mapped_file_that_is_gone_does_not_delay_the_freeze(
    home: Path, peer: FakePeer
) -> None:
    files = copy_of(home, mapped=lambda: frozenset({"upper/kept"}))
    await files.copy()
    (home / "upper/kept").unlink()
    await hand_over(files)
    assert peer.runs == ["trees", "files upper -upper/kept"]
    assert peer.content() == content(home)


async def test_a_large_file_that_is_replaced_by_one_of_its_size_and_time_arrives(
    home: Path, peer: FakePeer
) -> None:
    """Seen by the time of its last change alone, which rsync does not look at."""
    large = home / "upper/large"
    large.write_text("1" * 2 * ENOUGH_BYTES)

    def replace() -> None:
        (home / "upper/next").write_text("2" * 2 * ENOUGH_BYTES)
        before = large.stat()
        os.utime(home / "upper/next", ns=(before.st_atime_ns, before.st_mtime_ns))
        (home / "upper/next").rename(large)

    peer.meanwhile.append(replace)
    files = copy_of(home)
    await files.copy()
    await hand_over(files)
    assert peer.runs == ["trees", "files upper upper/large"]
    assert peer.content() == content(home)


async def test_a_file_made_and_removed_between_snapshots_is_not_on_the_target(
    home: Path, peer: FakePeer
) -> None:
    """As a database's journal does, by which it would undo what it has long written."""
    journal = home / "volumes/data/journal"
    peer.just_before.append(lambda: _write(journal, "copied"))
    peer.meanwhile.append(journal.unlink)
    files = copy_of(home)
    await files.copy()
    await hand_over(files)
    assert peer.content() == content(home)


async def test_a_file_made_and_removed_again_while_its_removal_is_sent_is_not_on_the_target(
    home: Path, peer: FakePeer
) -> None:
    journal = home / "volumes/data/journal"
    journal.write_text("old")

    def write_much() -> None:
        (home / "upper/log").write_text("x" * 2 * ENOUGH_BYTES)
        journal.unlink()

    peer.meanwhile += [write_much, lambda: _write(peer.root / "volumes/data/journal", "kept")]
    files = copy_of(home)
    await files.copy()
    await hand_over(files)
    assert peer.content() == content(home)


async def test_a_file_made_between_snapshots_is_on_the_target(home: Path, peer: FakePeer) -> None:
    peer.just_before.append(lambda: _write(home / "volumes/data/new", "new"))
    files = copy_of(home)
    await files.copy()
    await hand_over(files)
    assert peer.content() == content(home)


async def test_files_removed_before_the_freeze_are_removed_on_the_target(
    home: Path, peer: FakePeer
) -> None:
    def replace() -> None:
        (home / "upper/kept").unlink()
        (home / "upper/log").write_text("x" * 2 * ENOUGH_BYTES)

    peer.meanwhile.append(replace)
    files = copy_of(home)
    await files.copy()
    assert peer.runs == ["trees", "files upper upper/log -upper/kept"]
    assert peer.content() == content(home)


async def test_only_what_is_sent_before_the_freeze_is_limited(home: Path, peer: FakePeer) -> None:
    def write() -> None:
        (home / "upper/log").write_text("x" * 2 * ENOUGH_BYTES)

    peer.meanwhile += [write]
    bandwidth = BandwidthLimit(1e9)
    files = copy_of(home, bandwidth=bandwidth)
    await files.copy()
    (home / "upper/log").write_text("y")
    await hand_over(files)
    assert peer.bandwidths == [bandwidth, None]


@pytest.mark.usefixtures("blind")
async def test_files_on_a_tmpfs_are_always_sent(home: Path, peer: FakePeer) -> None:
    (home / "shm/segment").write_text("old")
    files = copy_of(home, opaque=("shm",))
    await files.copy()
    _store_silently(home / "shm/segment", "new")
    await hand_over(files)
    assert peer.runs == ["trees", "files shm/segment"]
    assert peer.content() == content(home)


@pytest.mark.usefixtures("blind")
async def test_a_silent_store_and_a_removal_both_arrive(home: Path, peer: FakePeer) -> None:
    files = copy_of(home, mapped=lambda: frozenset({"upper/kept"}))
    await files.copy()
    (home / "volumes/data/kept").unlink()
    _store_silently(home / "upper/kept", "tpek")
    await hand_over(files)
    assert peer.content() == content(home)


async def test_changes_in_the_snapshot_begun_ahead_are_sent(home: Path, peer: FakePeer) -> None:
    files = copy_of(home)
    await files.copy()
    (home / "upper/kept").write_text("changed")
    await files.make_ready()
    files.begin_snapshot()
    await files.send_difference()
    await files.close()
    assert peer.content() == content(home)


async def test_files_that_the_dump_made_after_the_snapshot_are_sent(
    home: Path, peer: FakePeer
) -> None:
    files = copy_of(home)
    await files.copy()
    await files.make_ready()
    files.begin_snapshot()
    (home / "upper/link_remap.1").write_text("open, and without a name before")
    await files.send_difference(has_new_files=True)
    await files.close()
    assert peer.content() == content(home)


async def test_a_snapshot_that_nobody_waits_for_is_ended(home: Path, peer: FakePeer) -> None:
    files = copy_of(home)
    await files.copy()
    await files.make_ready()
    files.begin_snapshot()
    await files.close()
    assert peer.runs == ["trees"]


async def test_there_is_no_difference_without_a_copy(home: Path, peer: FakePeer) -> None:
    files = copy_of(home)
    with pytest.raises(TransshipError):
        await files.send_difference()
    await files.close()
    assert peer.runs == []


async def test_a_stream_that_was_made_ready_is_closed(home: Path, peer: FakePeer) -> None:
    files = copy_of(home)
    await files.copy()
    await files.make_ready()
    assert peer.streams[-1].is_open
    await files.close()
    await files.close()


async def test_an_unreachable_peer_is_reported(home: Path, peer: FakePeer) -> None:
    peer.is_away = True
    files = copy_of(home)
    with pytest.raises(Unreachable):
        await files.copy()


def _store_silently(path: Path, text: str) -> None:
    """As a store through a mapping: the content changes, the times do not."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("arrived", range(5))
@pytest.mark.parametrize("whole", [True, False])
async def test_a_run_that_broke_off_counts_for_nothing(
    home: Path, peer: FakePeer, arrived: int, whole: bool
) -> None:
    """A container that ends while it is copied is copied anew, by the same FileCopy."""
    files = copy_of(home)
    if not whole:
        await files.copy()
    for name in ("a", "b", "c"):
        (home / "upper" / name).write_text(name * ENOUGH_BYTES)
    (home / "volumes/data/kept").unlink()
    peer.breaks_after = arrived
    try:
        await files.copy()
    except Unreachable:
        assert arrived < 5
    (home / "upper/a").unlink()
    await files.copy()
    (home / "upper/b").write_text("b")
    await hand_over(files)
    assert peer.content() == content(home)


async def test_a_log_whose_run_broke_off_is_sent_again(home: Path, peer: FakePeer) -> None:
    (home / "log").write_text("one\n")
    files = copy_of(home, log="log")
    send, broken = peer.send_in_place, [True]

    async def breaking(*args: Any, **words: Any) -> SendResult:
        if broken.pop():
            broken.append(False)
            raise Unreachable("the stream broke off")
        broken.append(False)
        return await send(*args, **words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filecopy, "send_in_place", breaking)
        with pytest.raises(Unreachable):
            await files.copy()
        await hand_over(files)
    assert (peer.root / "log").read_text() == "one\n"


async def test_streams_that_stood_ready_for_a_round_before_are_closed(
    home: Path, peer: FakePeer
) -> None:
    files = copy_of(home)
    await files.copy()
    await files.make_ready()
    await files.make_ready()
    assert [stream.is_open for stream in peer.streams].count(True) == 1
    await hand_over(files)
