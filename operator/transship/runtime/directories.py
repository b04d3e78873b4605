"""Directories that programs of the container's side have had their hands on: opening, removing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from loguru import logger

from transship.common.errors import CommandFailed, TransshipError
from transship.common.processes import run


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[int]:
    """A descriptor of a directory, made when it is missing, for the time of a request to CRIU."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def unmount_below(directory: Path) -> None:
    """Unmount everything at or below a directory, the innermost first.

    A failed restore leaves `criu-root` and `.criu.cgyard.*` behind, with cgroups and the container's
    file system in them.
    """
    for point in reversed(mount_points_below(directory, Path("/proc/self/mountinfo").read_text())):
        try:
            await run(["umount", "-l", point])
        except CommandFailed as e:
            logger.bind(path=str(point)).warning("unmounting failed: {}", e.output.strip())


def mount_points_below(directory: Path, table: str) -> list[Path]:
    """The mount points at or below a directory, in the order in which they were mounted."""
    points = (Path(_unescaped(line.split(" ")[4])) for line in table.splitlines())
    return [point for point in points if point.is_relative_to(directory)]


def remove_tree_without_crossing_mounts(directory: Path) -> None:
    """Delete a directory and all below it, on its own file system only.

    Raises TransshipError when something is mounted in it, before the first deletion: what is seen
    there is live data of somebody else.
    """
    if not directory.exists():
        return
    mounted = mount_points_below(directory, Path("/proc/self/mountinfo").read_text())
    if mounted:
        raise TransshipError(f"deleting {directory}: {mounted[0]} is mounted", reason="StillMounted")
    _remove(directory, device=directory.lstat().st_dev)


def _remove(directory: Path, *, device: int) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            if status.st_dev != device:
                raise TransshipError(f"deleting {directory}: {entry.name} is mounted")
            if entry.is_dir(follow_symlinks=False):
                _remove(Path(entry.path), device=device)
            else:
                Path(entry.path).unlink()
    directory.rmdir()


def _unescaped(field: str) -> str:
    r"""Undo mountinfo's octal escapes: a space is \040."""
    return field.encode("latin-1", "replace").decode("unicode_escape") if "\\" in field else field
