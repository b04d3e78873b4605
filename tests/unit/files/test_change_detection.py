"""Which files of a tree count as changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from transship.files.change_detection import (
    TICK_NANOSECONDS,
    FileEntry,
    TreeSnapshot,
    changes,
    take_snapshot,
)

OLD = (1_000_000_000, 1_000_000_000)


def settled(root: Path) -> TreeSnapshot:
    """A look long after the last change: nothing in it is in doubt."""
    found = take_snapshot(root, ["upper"])
    newest = max(FileEntry.of(line).changed for line in found.lines)
    return replace(found, taken=newest + 2 * TICK_NANOSECONDS)


def make(root: Path) -> None:
    (root / "upper" / "folder").mkdir(parents=True)
    (root / "upper" / "folder" / "file").write_text("one")


def test_an_unchanged_tree_has_no_changes(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    assert not changes(before, take_snapshot(tmp_path, ["upper"])).any


def test_a_write_of_the_same_size_with_its_times_restored_is_a_change(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "upper" / "folder" / "file"
    os.utime(file, ns=OLD)
    before = settled(tmp_path)
    file.write_text("two")
    os.utime(file, ns=OLD)
    assert changes(before, take_snapshot(tmp_path, ["upper"])).files == ("upper/folder/file",)


def test_a_new_file_changes_its_folder_too(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    (tmp_path / "upper" / "folder" / "new").write_text("12345")
    found = changes(before, take_snapshot(tmp_path, ["upper"]))
    assert set(found.files) == {"upper/folder", "upper/folder/new"}
    assert found.bytes == 5


def test_files_in_a_folder_that_was_renamed_away_and_back_are_sent_again(tmp_path: Path) -> None:
    """A copy that ran meanwhile has seen nothing of it under its name."""
    make(tmp_path)
    folder, away = tmp_path / "upper" / "folder", tmp_path / "upper" / "away"
    (folder / "deeper").mkdir()
    (folder / "deeper" / "other").write_text("one")
    (tmp_path / "upper" / "beside").write_text("one")
    before = settled(tmp_path)
    folder.rename(away)
    away.rename(folder)
    found = changes(before, take_snapshot(tmp_path, ["upper"])).files
    assert {"upper/folder/file", "upper/folder/deeper/other"} <= set(found)
    assert "upper/beside" not in found


def test_a_renamed_folder_may_have_any_bytes_as_its_name(tmp_path: Path) -> None:
    make(tmp_path)
    folder = tmp_path / "upper" / os.fsdecode(b"\xff")
    (tmp_path / "upper" / "folder").rename(folder)
    before = settled(tmp_path)
    folder.rename(tmp_path / "upper" / "away")
    (tmp_path / "upper" / "away").rename(folder)
    found = changes(before, take_snapshot(tmp_path, ["upper"])).files
    assert str((folder / "file").relative_to(tmp_path)) in found


def test_a_removed_file_is_reported_as_removed(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    (tmp_path / "upper" / "folder" / "file").unlink()
    assert changes(before, take_snapshot(tmp_path, ["upper"])).removed == ("upper/folder/file",)


def test_a_file_that_changed_within_the_tick_of_the_snapshot_counts_as_changed(
    tmp_path: Path,
) -> None:
    make(tmp_path)
    before = take_snapshot(tmp_path, ["upper"])
    newest = max(FileEntry.of(line).changed for line in before.lines)
    at_once = replace(before, taken=newest)
    assert "upper/folder/file" in changes(at_once, take_snapshot(tmp_path, ["upper"])).files


def test_a_mapped_file_always_counts_as_changed(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    found = changes(before, take_snapshot(tmp_path, ["upper"]), always=["upper/folder/file"])
    assert found.files == ("upper/folder/file",)


def test_a_file_that_counts_as_changed_does_so_under_all_of_its_names(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "upper" / "second name").hardlink_to(tmp_path / "upper" / "folder" / "file")
    (tmp_path / "upper" / "other").write_text("one")
    (tmp_path / "upper" / "other's link").hardlink_to(tmp_path / "upper" / "other")
    before = settled(tmp_path)
    found = changes(before, take_snapshot(tmp_path, ["upper"]), always=["upper/folder/file"])
    assert found.files == ("upper/folder/file", "upper/second name")


def test_a_file_that_was_sent_but_is_in_no_snapshot_counts_as_removed(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    sent = before.with_sent(
        ["upper", "upper/folder/file", "upper/folder/new\nname", "upper/caf\udce9"]
    )
    found = changes(sent, take_snapshot(tmp_path, ["upper"]))
    assert found.removed == ("upper/caf\udce9", "upper/folder/new\nname")
    assert found.files == ()
    (tmp_path / "upper" / "folder" / "new\nname").write_text("2")
    found = changes(sent, take_snapshot(tmp_path, ["upper"]))
    assert found.removed == ("upper/caf\udce9",)
    assert found.files == ("upper/folder", "upper/folder/new\nname")


def test_a_snapshot_may_have_a_single_file_and_omits_a_missing_tree(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("line")
    assert [
        FileEntry.of(line).path for line in take_snapshot(tmp_path, ["log", "absent"]).lines
    ] == ["log"]
    assert take_snapshot(tmp_path, ["absent"]).lines == frozenset()


def test_times_have_nanoseconds(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("line")
    [line] = take_snapshot(tmp_path, ["log"]).lines
    assert FileEntry.of(line) == FileEntry((tmp_path / "log").stat().st_ctime_ns, 4, "log")


@pytest.mark.parametrize("name", ["with space", "new\nline", "t\tab", "caf\udce9", " upper/x"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    (tmp_path / "upper" / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "upper" / "folder" / name).write_text("1")
    found = changes(before, take_snapshot(tmp_path, ["upper"]))
    assert f"upper/folder/{name}" in found.files


@pytest.mark.parametrize("change", ["mode", "owner", "hard link", "type", "target"])
def test_a_change_of_metadata_counts(tmp_path: Path, change: str) -> None:
    make(tmp_path)
    file, link = tmp_path / "upper" / "folder" / "file", tmp_path / "upper" / "link"
    link.symlink_to("here")
    before = settled(tmp_path)
    match change:
        case "mode":
            file.chmod(0o4755)
        case "owner":
            os.chown(file, 4711, 4712)
        case "hard link":
            (tmp_path / "upper" / "other").hardlink_to(file)
        case "type":
            file.unlink()
            file.mkdir()
        case _:
            link.unlink()
            link.symlink_to("elsewhere")
    changed = "upper/link" if change == "target" else "upper/folder/file"
    assert changed in changes(before, take_snapshot(tmp_path, ["upper"])).files


def test_only_files_below_a_given_folder_count_as_changed(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "shm" / "upper").mkdir(parents=True)
    (tmp_path / "shm" / "upper" / "segment").write_text("123")
    before = take_snapshot(tmp_path, ["upper", "shm"])
    later = replace(before, taken=before.taken + 10**12)
    found = changes(later, take_snapshot(tmp_path, ["upper", "shm"]), below=["shm"])
    assert found.files == ("shm/upper", "shm/upper/segment")
    assert found.bytes == 3
