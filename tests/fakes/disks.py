"""Disks that fail, write less than they are given, or at which the agent is killed."""

from __future__ import annotations

import os
from pathlib import Path

from transship.common.durable_files import Disk


class Killed(BaseException):
    """The agent is killed: nothing catches this."""


class BadDisk(Disk):
    """Works up to its call number `at` (from 1), which raises `error` before or after its effect.

    With an errno that call and all later ones fail. With Killed the agent dies at that call.
    """

    def __init__(self, *, at: int, error: int | type[Killed], after: bool = False) -> None:
        self.calls: list[str] = []
        self._at, self._error, self._after = at, error, after

    def create(self, path: Path) -> int:
        self._fail("create")
        made = super().create(path)
        self._fail_after()
        return made

    def write(self, descriptor: int, data: bytes) -> int:
        self._fail("write")
        written = super().write(descriptor, data)
        self._fail_after()
        return written

    def sync(self, descriptor: int) -> None:
        self._fail("sync")
        self._fail_after()

    def close(self, descriptor: int) -> None:
        super().close(descriptor)  # the kernel closes it whatever happens

    def rename(self, source: Path, target: Path) -> None:
        self._fail("rename")
        super().rename(source, target)
        self._fail_after()

    def unlink(self, path: Path) -> None:
        self._fail("unlink")
        super().unlink(path)
        self._fail_after()

    def open_folder(self, path: Path) -> int:
        self._fail("open_folder")
        return super().open_folder(path)

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) > self._at or (len(self.calls) == self._at and not self._after):
            self._raise()

    def _fail_after(self) -> None:
        if len(self.calls) == self._at and self._after:
            self._raise()

    def _raise(self) -> None:
        if isinstance(self._error, int):
            raise OSError(self._error, os.strerror(self._error))
        raise self._error


class FullDisk(BadDisk):
    """Files can still be deleted."""

    def unlink(self, path: Path) -> None:
        Disk.unlink(self, path)


class SlowDisk(Disk):
    """Writes a few bytes at a time, as the kernel may."""

    def write(self, descriptor: int, data: bytes) -> int:
        return super().write(descriptor, data[:7])
