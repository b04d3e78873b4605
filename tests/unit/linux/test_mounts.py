from __future__ import annotations

from pathlib import Path

import pytest

from transship.common.errors import Refused, TransshipError
from transship.linux import mounts

TABLE = """\
1 1 0:1 / / rw - ext4 /dev/sda rw
2 1 0:2 / /a\\040b rw - tmpfs tmpfs rw
"""


def test_mount_points_with_spaces_are_read() -> None:
    assert mounts.mount_points(TABLE) == (Path("/"), Path("/a b"))


def test_a_tree_without_mounts_is_deleted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    mounts.remove_tree(tree)
    mounts.remove_tree(tree)
    assert not tree.exists()


def test_a_tree_with_a_mount_in_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    monkeypatch.setattr(mounts, "mount_points", lambda: (Path("/"), tree / "below"))
    with pytest.raises(Refused, match="is mounted"):
        mounts.remove_tree(tree)
    assert (tree / "below").exists()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("etc/passwd", "real/passwd"),
        ("/etc/passwd", "real/passwd"),
        ("../../etc/passwd", "real/passwd"),
        ("absolute/passwd", "real/passwd"),
        ("out/passwd", "real/passwd"),
        ("missing/file", "missing/file"),
    ],
)
def test_links_of_a_container_do_not_lead_out_of_it(
    tmp_path: Path, path: str, expected: str
) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "etc").symlink_to("real")
    (root / "absolute").symlink_to("/real")
    (root / "out").symlink_to("../../../../real")
    assert mounts.inside(root, path) == root / expected


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(TransshipError, match="too many symbolic links"):
        mounts.inside(tmp_path, "a/x")


def test_unmounting_what_is_not_mounted_does_nothing(tmp_path: Path) -> None:
    mounts.unmount(tmp_path)
