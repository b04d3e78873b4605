"""A peer that takes files: what files.rsync and streams.connection do for a FileCopy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transship.common.errors import Unreachable
from transship.files.rsync import SendResult


@dataclass
class FakeStream:
    is_open: bool = True

    async def close(self) -> None:
        self.is_open = False


@dataclass
class FakePeer:
    """Takes files below `root`; rsync's rule: same size and time means unchanged."""

    root: Path
    meanwhile: list[Callable[[], None]] = field(default_factory=list)
    """What the container does during the next copies, one for each."""
    just_before: list[Callable[[], None]] = field(default_factory=list)
    """The same, after the snapshot and before the copy of whole trees."""
    streams: list[FakeStream] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    bandwidths: list[object] = field(default_factory=list)
    """The limit of each run of named files."""
    is_away: bool = False
    breaks_after: int | None = None
    """How many more files come before the next run breaks off."""

    async def open_stream(self, *_: Any, **__: Any) -> FakeStream:
        if self.is_away:
            raise Unreachable("the peer is away")
        self.streams.append(FakeStream())
        return self.streams[-1]

    async def send_trees(
        self, root: Path, names: Sequence[str], *, stream: FakeStream, timeout_seconds: float,
        bandwidth: object = None,
    ) -> SendResult:  # fmt: skip
        assert stream.is_open
        self.runs.append("trees")
        if self.just_before:
            self.just_before.pop(0)()
        named = {str(path.relative_to(root)) for name in names for path in (root / name).rglob("*")}
        sent = sum(self._take_tree(root, name) for name in names)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        return SendResult(bytes=sent, names=frozenset(named))

    async def send_files(
        self, root: Path, files: Sequence[str], *, removed: Sequence[str] = (),
        stream: FakeStream, timeout_seconds: float, bandwidth: object = None,
    ) -> SendResult:  # fmt: skip
        assert stream.is_open
        gone = "".join(f" -{name}" for name in sorted(removed))
        self.runs.append(f"files {' '.join(sorted(files))}{gone}")
        self.bandwidths.append(bandwidth)
        for path in (self.root / name for name in sorted(removed, reverse=True)):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        sent = sum(self._take(root, name) for name in files)
        if bandwidth is not None and self.meanwhile:  # without one it is the freeze
            self.meanwhile.pop(0)()
        return SendResult(bytes=sent)

    async def send_in_place(
        self, root: Path, name: str, *, stream: FakeStream, timeout_seconds: float,
        bandwidth: object = None,
    ) -> SendResult:  # fmt: skip
        assert stream.is_open
        self.runs.append(f"in place {name}")
        data = (root / name).read_bytes()
        with (self.root / name).open("r+b" if (self.root / name).exists() else "wb") as file:
            file.write(data)
            file.truncate()
        return SendResult(bytes=len(data))

    def content(self) -> dict[str, str]:
        return content(self.root)

    def _take_tree(self, root: Path, name: str) -> int:
        present = {path.relative_to(root) for path in (root / name).rglob("*")}
        for path in sorted((self.root / name).rglob("*"), reverse=True):
            if path.relative_to(self.root) not in present:
                path.rmdir() if path.is_dir() else path.unlink()
        return sum(
            self._take(root, str(path)) for path in sorted(present) if self._differs(root, path)
        )

    def _differs(self, root: Path, name: Path) -> bool:
        ours, theirs = root / name, self.root / name
        if not theirs.exists():
            return True
        before, after = theirs.stat(), ours.stat()
        return (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)

    def _take(self, root: Path, name: str) -> int:
        if self.breaks_after is not None:
            if self.breaks_after == 0:
                self.breaks_after = None
                raise Unreachable("the stream broke off")
            self.breaks_after -= 1
        ours, theirs = root / name, self.root / name
        if ours.is_dir():
            theirs.mkdir(parents=True, exist_ok=True)
            return 0
        theirs.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ours, theirs)
        found = ours.stat()
        os.utime(theirs, ns=(found.st_atime_ns, found.st_mtime_ns))
        return found.st_size


def content(root: Path) -> dict[str, str]:
    """All regular files and what is in them."""
    return {
        str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()
    }
