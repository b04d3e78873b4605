"""The freezer of one container: all of its tasks stop at once, and run on at once. v1 and v2.

Freezing is a request to the kernel: it is done when the kernel says so, and `freeze` returns no
earlier.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import DeadlineExceeded, NotFound, TransshipError
from transship.linux import cgroups, processes

FREEZE_TIMEOUT_SECONDS = 5.0
"""Seen: 0.3 to 0.7 ms. A task in an uninterruptible call (NFS, vfork) can delay it for ever."""

SHORT_POLLS = 3
SHORT_POLL_SECONDS = 0.0003
LONGEST_POLL_SECONDS = 0.02

STOP_WAIT = "do_signal_stop"
"""Where the kernel keeps a task that SIGSTOP or job control has stopped, frozen or not."""


class FreezerState(StrEnum):
    THAWED = "Thawed"
    FREEZING = "Freezing"
    FROZEN = "Frozen"


@dataclass(frozen=True)
class Freezer:
    """The directory of a container's cgroup that can freeze: in v1 the freezer controller's."""

    path: Path
    unified: bool

    @property
    def control(self) -> Path:
        """The file that freezes, when one writes `freeze_word` into it."""
        return self.path / ("cgroup.freeze" if self.unified else "freezer.state")

    @property
    def freeze_word(self) -> str:
        return "1" if self.unified else "FROZEN"

    @property
    def state_file(self) -> str:
        """The name of the file that has the line `frozen_line` while all tasks are frozen."""
        return "cgroup.events" if self.unified else "freezer.state"

    @property
    def frozen_line(self) -> str:
        return "frozen 1" if self.unified else "FROZEN"

    @property
    def _thaw_word(self) -> str:
        return "0" if self.unified else "THAWED"

    def state(self) -> FreezerState:
        """What the kernel says. Raises NotFound when the cgroup is gone."""
        try:
            return _state_v2(self.path) if self.unified else _state_v1(self.path)
        except OSError as e:
            raise NotFound(f"reading the freezer {self.path}: {e.strerror}") from e

    def processes(self) -> tuple[int, ...]:
        """As this process's pid namespace counts them; none where the cgroup is gone.

        Raises OSError where the kernel does not tell (descriptors are short, say).
        """
        try:
            return cgroups.pids((self.path / "cgroup.procs").read_text())
        except OSError as e:
            if e.errno in {errno.ENOENT, errno.ENODEV}:
                return ()
            raise

    async def freeze(self, *, timeout_seconds: float = FREEZE_TIMEOUT_SECONDS) -> None:
        """Freeze, and return when all tasks are.

        Raises DeadlineExceeded when some task does not stop in time; everything is thawed again
        then, as it is when the waiting is cancelled.
        """
        self._write(self.freeze_word)
        try:
            await self._wait_until_frozen(time.monotonic() + timeout_seconds)
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Let all tasks run on. The kernel does that within the write; it cannot fail half-way."""
        self._write(self._thaw_word)

    def request_freeze(self) -> FreezerState:
        """Freeze tasks that are known to stand still already (held by ptrace): no waiting.

        Such tasks count as frozen at once, both in v1 and in v2.
        """
        self._write(self.freeze_word)
        return self.state()

    async def _wait_until_frozen(self, deadline: float) -> None:
        pause = LONGEST_POLL_SECONDS / 8
        while not self._settles():
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"freezing {self.path.name}: some task does not stop",
                    reason=Reason.FREEZE_TIMED_OUT,
                    hint=Reason.FREEZE_TIMED_OUT.hint,
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
            if not self.unified:
                self._write(self.freeze_word)  # v1 can miss a task that forks: asking again helps

    def _settles(self) -> bool:
        """Look a few times in a row: the event loop's own pauses are 1 ms at least."""
        for _ in range(SHORT_POLLS):
            if self.state() is FreezerState.FROZEN:
                return True
            time.sleep(SHORT_POLL_SECONDS)
        return False

    def _write(self, word: str) -> None:
        try:
            self.control.write_text(word)
        except FileNotFoundError as e:
            raise NotFound(f"writing {word} to the freezer {self.path}: it is gone") from e
        except OSError as e:
            raise TransshipError(f"writing {word} to {self.control}: {e.strerror}") from e

    @contextlib.contextmanager
    def paused(self, *, timeout_seconds: float = FREEZE_TIMEOUT_SECONDS) -> Iterator[Paused]:
        """All tasks stand still within the context; blocking. Raises DeadlineExceeded.

        A container that was frozen before stays so.
        """
        before = self.state()
        self._write(self.freeze_word)
        try:
            deadline = time.monotonic() + timeout_seconds
            while not self._settles():
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        f"pausing {self.path.name}: some task does not stop",
                        reason=Reason.FREEZE_TIMED_OUT,
                        hint=Reason.FREEZE_TIMED_OUT.hint,
                    )
            yield Paused(self)
        finally:
            if before is FreezerState.THAWED:
                self.thaw()

    def stopped_tasks(self) -> tuple[int, ...]:
        """The processes that a signal has stopped (state T), whether the cgroup is frozen or not.

        Under a v1 freezer every task shows as D; where it waits in the kernel tells them apart.
        """
        return tuple(pid for pid in self.processes() if _is_stopped(pid))


@dataclass(frozen=True)
class Paused:
    """A pause under way; somebody else who thaws the container breaks it."""

    freezer: Freezer

    def unbroken(self) -> bool:
        return self.freezer.state() is FreezerState.FROZEN


def freezer_of(cgroup: str) -> Freezer:
    """The freezer of a cgroup, whether anything runs in it yet or not."""
    hierarchies = cgroups.detect()
    path = hierarchies.path(cgroup, controller="freezer")
    return Freezer(path, unified=hierarchies.unified)


def _state_v1(path: Path) -> FreezerState:
    return FreezerState((path / "freezer.state").read_text().strip().capitalize())


def _state_v2(path: Path) -> FreezerState:
    if (path / "cgroup.freeze").read_text().strip() == "0":
        return FreezerState.THAWED
    events = (path / "cgroup.events").read_text().splitlines()
    return FreezerState.FROZEN if "frozen 1" in events else FreezerState.FREEZING


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return processes.stat(pid).state == "T" or wait_channel(pid) == STOP_WAIT
    return False


def wait_channel(task: int) -> str:
    """The kernel function that a task waits in."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{task}/wchan").read_text()
    return ""
