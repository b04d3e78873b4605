"""A container's root file system: an overlay over its image, and a /dev for a restore.

The upper layer holds the container's changes and is what a migration copies. The kernel leaves it
undefined to write there while the overlay is mounted: on a target, mount after the last file has
arrived.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.common.errors import TransshipError
from transship.linux import mounts

WITH_HANDLES = "index=on,nfs_export=on,metacopy=off"
"""CRIU dumps an inotify watch by the file's handle, which an overlay gives with these options only
(otherwise: `Can't dump that handle`). metacopy excludes nfs_export and may be on by default."""
WITHOUT_HANDLES = "index=off,metacopy=off"

DEVICE_NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
"""Major and minor numbers."""
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
DEVICE_DIRECTORIES = ("pts", "shm", "mqueue")
CONSOLE = "console"


@dataclass(frozen=True)
class Overlay:
    """The directories of one overlay mount, in the kernel's words; `merged` is the mount point."""

    lower: Path
    upper: Path
    work: Path
    merged: Path

    def make_directories(self) -> None:
        for path in (self.upper, self.work, self.merged):
            path.mkdir(parents=True, exist_ok=True)
        self.upper.chmod(0o755)


def mount(overlay: Overlay, *, features: str) -> None:
    """Mount an overlay with options from `features`, unless something is mounted there."""
    if mounts.is_mount_point(overlay.merged):
        return
    overlay.make_directories()
    try:
        _mount(overlay, features=features)
    except OSError as e:
        raise TransshipError(f"mounting the root file system {overlay.merged}: {e.strerror}") from e


def _mount(overlay: Overlay, *, features: str) -> None:
    layers = f"lowerdir={overlay.lower},upperdir={overlay.upper},workdir={overlay.work}"
    mounts.mount("overlay", overlay.merged, kind="overlay", options=f"{layers},{features}")


def unmount(overlay: Overlay) -> None:
    """Unmount the overlay, and no other mount in it."""
    try:
        mounts.unmount(overlay.merged)
    except OSError as e:
        raise TransshipError(
            f"unmounting the root file system {overlay.merged}: {e.strerror}"
        ) from e


def features(scratch: Path) -> str:
    """Return the mount options that this kernel and file system accept, after a trial mount."""
    trial = Overlay(*(scratch / name for name in ("lower", "upper", "work", "merged")))
    try:
        trial.lower.mkdir(parents=True, exist_ok=True)
        trial.make_directories()
        _mount(trial, features=WITH_HANDLES)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ESTALE):
            raise TransshipError(f"mounting an overlay below {scratch}: {e.strerror}") from e
        return WITHOUT_HANDLES
    else:
        return _features_of(trial.merged)
    finally:
        mounts.unmount(trial.merged)
        shutil.rmtree(scratch, ignore_errors=True)


def _features_of(merged: Path) -> str:
    """Read back which options are on: without file handles the kernel turns nfs_export off."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    entry = next(line for line in lines if line.split(" ")[4] == str(merged.resolve()))
    if "nfs_export=on" in entry:
        return WITH_HANDLES
    logger.bind(directory=str(merged.parent)).warning(
        "no file handles on this file system: containers with inotify watches cannot be moved"
    )
    return WITHOUT_HANDLES


def make_devices(path: Path) -> None:
    """Create in a directory what runc creates in a container's /dev; existing entries stay.

    To dump the tmpfs that runc mounts on /dev, CRIU runs tar inside the freeze, 7 ms. A dump with
    `external mnt[/dev]:dev` omits it, and the restore mounts this directory instead.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name in DEVICE_DIRECTORIES:
        (path / name).mkdir(exist_ok=True)
    for name, (major, minor) in DEVICE_NODES.items():
        if not (path / name).exists():
            os.mknod(path / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            # mknod(2) applies the umask
            (path / name).chmod(0o666)
    for name, target in DEVICE_LINKS.items():
        if not (path / name).is_symlink():
            (path / name).symlink_to(target)
    (path / CONSOLE).touch()


def has_only_standard_devices(path: Path) -> bool:
    """Whether a /dev has no entry of the container's own, such as /dev/log, that would be lost."""
    known = {*DEVICE_NODES, *DEVICE_LINKS, *DEVICE_DIRECTORIES, CONSOLE}
    return all(entry.name in known for entry in path.iterdir())
