"""What counts as changed in a tree."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from transship.transfer.changes import TICK_NANOSECONDS, Look, changes, look

OLD = (1_000_000_000, 1_000_000_000)


def settled(root: Path) -> Look:
    """A look long after the last change: nothing in it is in doubt."""
    found = look(root, ["upper"])
    newest = max(trace.changed for trace in found.traces.values())
    return replace(found, taken=newest + 2 * TICK_NANOSECONDS)


def make(root: Path) -> None:
    (root / "upper" / "folder").mkdir(parents=True)
    (root / "upper" / "folder" / "file").write_text("one")


def test_nothing_changed_is_nothing_to_send(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    assert not changes(before, look(tmp_path, ["upper"])).any


def test_a_write_of_the_same_size_with_its_times_put_back_is_seen(tmp_path: Path) -> None:
    make(tmp_path)
    file = tmp_path / "upper" / "folder" / "file"
    os.utime(file, ns=OLD)
    before = settled(tmp_path)
    file.write_text("two")
    os.utime(file, ns=OLD)
    assert changes(before, look(tmp_path, ["upper"])).files == ("upper/folder/file",)


def test_a_new_file_comes_with_its_folder_whose_times_it_changed(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    (tmp_path / "upper" / "folder" / "new").write_text("12345")
    found = changes(before, look(tmp_path, ["upper"]))
    assert set(found.files) == {"upper/folder", "upper/folder/new"}
    assert found.bytes == 5


def test_a_removed_file_is_named_as_removed(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    (tmp_path / "upper" / "folder" / "file").unlink()
    assert changes(before, look(tmp_path, ["upper"])).removed == ("upper/folder/file",)


def test_a_file_that_changed_within_the_tick_of_the_look_is_in_doubt(tmp_path: Path) -> None:
    make(tmp_path)
    before = look(tmp_path, ["upper"])
    newest = max(trace.changed for trace in before.traces.values())
    at_once = replace(before, taken=newest)
    assert "upper/folder/file" in changes(at_once, look(tmp_path, ["upper"])).files


def test_a_mapped_file_always_counts_as_changed(tmp_path: Path) -> None:
    make(tmp_path)
    before = settled(tmp_path)
    found = changes(before, look(tmp_path, ["upper"]), always=["upper/folder/file"])
    assert found.files == ("upper/folder/file",)


def test_a_single_file_can_be_looked_at_and_a_missing_tree_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("line")
    assert set(look(tmp_path, ["log", "absent"]).traces) == {"log"}
