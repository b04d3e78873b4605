"""A program of test_files.py for nodes: makes files below a container's root, or reports them.

Run as: make|report ROOT. The report has all that a program can see of each file, and a digest of
its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

TREES = ("made", "data", "etc", "opt")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service


def make(root: Path) -> None:
    """Make files of every kind, in the root file system and in a volume."""
    for base in (root / "made", root / "data"):
        (base / "deep" / "er").mkdir(parents=True)
        _make_regular(base)
        _make_special(base)
    _change_the_image(root)


def _make_regular(base: Path) -> None:
    modes = {"plain": 0o644, "setuid": 0o4755, "sticky": 0o1777, "none": 0o000}
    for number, (name, mode) in enumerate(modes.items()):
        (base / name).write_bytes(os.urandom(5000 * number))
        os.chown(base / name, 1000 + number, 2000 + number)
        (base / name).chmod(mode)
    os.link(base / "plain", base / "deep" / "linked")
    (base / "symbolic").symlink_to("/nowhere/at all")
    os.setxattr(base / "plain", "user.comment", b"kept\0binary")
    os.setxattr(base / "setuid", "security.capability", CAPABILITY)
    os.utime(base / "plain", ns=(10**18 + 123456789, 10**18 + 987654321))
    (base / "new\nline caf\udce9").write_text("a name of any bytes")
    with (base / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(300 << 20)  # more than the container may have in memory
        file.write(b"end")


def _make_special(base: Path) -> None:
    os.mkfifo(base / "fifo", 0o600)
    os.mknod(base / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(base / "deep" / "socket"))
    (base / "deep" / "er").chmod(0o2750)


def _change_the_image(root: Path) -> None:
    """A whiteout; an opaque folder, which hides what the image has there; a file copied up."""
    (root / "etc" / "issue.net").unlink()
    folder = root / "etc" / "skel"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.mkdir()
    (folder / "only").write_text("this")
    (root / "etc" / "hostname.old").write_text("new")
    (root / "etc" / "debian_version").chmod(0o600)


def report(root: Path) -> dict[str, Any]:
    states: dict[str, Any] = {}
    first: dict[tuple[int, int], str] = {}
    for tree in TREES:
        for folder, folders, files in sorted(os.walk(root / tree)):
            for name in sorted((*folders, *files, ".")):
                path = Path(folder) / name
                states[str(path.relative_to(root))] = _state(path, first)
    return states


def _state(path: Path, first: dict[tuple[int, int], str]) -> list[Any]:
    status = path.lstat()
    twin = first.setdefault((status.st_dev, status.st_ino), str(path))
    regular = stat.S_ISREG(status.st_mode)
    return [
        oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev,
        status.st_mtime_ns if regular else 0,
        status.st_size if regular else 0,
        status.st_nlink if regular else 0,
        twin if regular and status.st_nlink > 1 else "",
        status.st_blocks * 512 < status.st_size if regular else False,
        str(path.readlink()) if path.is_symlink() else "",
        {name: os.getxattr(path, name, follow_symlinks=False).hex()
         for name in os.listxattr(path, follow_symlinks=False)},
        hashlib.sha256(path.read_bytes()).hexdigest() if regular else "",
    ]  # fmt: skip


def main(task: str, root: str) -> None:
    if task == "make":
        make(Path(root))
    else:
        json.dump(report(Path(root)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
