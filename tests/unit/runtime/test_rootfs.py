from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from transship.common.errors import TransshipError
from transship.linux import mounts
from transship.runtime import rootfs
from transship.runtime.rootfs import Overlay


def fail_with(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def mount(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(mounts, "mount", mount)


def test_a_file_system_without_handles_gets_an_overlay_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.EINVAL, monkeypatch)
    assert rootfs.features(tmp_path / "trial") == rootfs.WITHOUT_HANDLES
    assert not (tmp_path / "trial").exists()


def test_not_being_allowed_to_mount_is_an_error_not_a_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(errno.EPERM, monkeypatch)
    with pytest.raises(TransshipError, match="mounting an overlay"):
        rootfs.features(tmp_path / "trial")


def test_a_trial_on_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_directories(_self: Overlay) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Overlay, "make_directories", make_directories)
    with pytest.raises(TransshipError, match="mounting an overlay"):
        rootfs.features(tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of devices, made twice; device nodes need root and are plain files here."""
    monkeypatch.setattr(os, "mknod", lambda path, *_rest: path.touch())
    rootfs.make_devices(tmp_path)
    rootfs.make_devices(tmp_path)
    return tmp_path


def test_a_directory_of_devices_has_what_programs_expect(devices: Path) -> None:
    assert {"null", "zero", "urandom", "tty", "ptmx", "stdin", "shm", "pts"} <= {
        path.name for path in devices.iterdir()
    }
    assert (devices / "stdout").readlink() == Path("/proc/self/fd/1")


def test_an_entry_of_the_container_in_its_dev_is_noticed(devices: Path) -> None:
    assert rootfs.has_only_standard_devices(devices)
    (devices / "log").touch()
    assert not rootfs.has_only_standard_devices(devices)
