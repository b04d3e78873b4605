"""A container's root file system: an overlay over its image, its own changes in upper.

The upper layer is what moves. It may be written by others only while the overlay is not mounted
(the kernel leaves anything else undefined): on a target, mount after the last file has arrived.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.common.errors import TransshipError
from transship.linux import mounts

# CRIU dumps an inotify watch by the file's handle, which an overlay gives only so; else it says
# `Can't dump that handle`. metacopy excludes nfs_export, and may be the kernel's default.
WITH_HANDLES = "index=on,nfs_export=on,metacopy=off"
WITHOUT_HANDLES = "index=off,metacopy=off"


@dataclass(frozen=True)
class Overlay:
    lower: Path
    upper: Path
    work: Path
    merged: Path

    def make_directories(self) -> None:
        for path in (self.upper, self.work, self.merged):
            path.mkdir(parents=True, exist_ok=True)
        self.upper.chmod(0o755)


def mount(overlay: Overlay, *, features: str) -> None:
    """Mount it, unless it is mounted."""
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
    """Take the overlay off, and nothing else that may be mounted in it by whomever."""
    try:
        mounts.unmount(overlay.merged)
    except OSError as e:
        raise TransshipError(
            f"unmounting the root file system {overlay.merged}: {e.strerror}"
        ) from e


def features(scratch: Path) -> str:
    """The mount options that this kernel and file system accept, by trying them."""
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
        return _as_shown(trial.merged)
    finally:
        mounts.unmount(trial.merged)
        shutil.rmtree(scratch, ignore_errors=True)


def _as_shown(merged: Path) -> str:
    """A file system without handles makes the kernel mount all the same, with the feature off."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    shown = next(line for line in lines if line.split(" ")[4] == str(merged.resolve()))
    if "nfs_export=on" in shown:
        return WITH_HANDLES
    logger.bind(directory=str(merged.parent)).warning(
        "no file handles on this file system: containers with inotify watches cannot be moved"
    )
    return WITHOUT_HANDLES
