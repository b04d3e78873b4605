"""The freezer of a cgroup, v1 and v2: it stops all tasks, and lets them run again.

A freeze is a request: tasks stop one after the other. `freeze` returns when the kernel reports that
all have stopped.
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
"""It takes 0.3 to 0.7 ms. A task in an uninterruptible call (NFS, vfork) can delay it for ever."""

SHORT_POLLS = 3
SHORT_POLL_SECONDS = 0.0003
LONGEST_POLL_SECONDS = 0.02

STOP_WAIT = "do_signal_stop"
"""The wait channel of a task that SIGSTOP or job control has stopped, frozen or not."""


class FreezerState(StrEnum):
    THAWED = "Thawed"
    FREEZING = "Freezing"
    FROZEN = "Frozen"


@dataclass(frozen=True)
class Freezer:
    """A cgroup's directory with the freezer: in v1 that of the freezer controller."""

    path: Path
    unified: bool

    @property
    def control(self) -> Path:
        """The file that takes `freeze_word`."""
        return self.path / ("cgroup.freeze" if self.unified else "freezer.state")

    @property
    def freeze_word(self) -> str:
        return "1" if self.unified else "FROZEN"

    @property
    def state_file(self) -> str:
        """The name of the file with the line `frozen_line` while all tasks are frozen."""
        return "cgroup.events" if self.unified else "freezer.state"

    @property
    def frozen_line(self) -> str:
        return "frozen 1" if self.unified else "FROZEN"

    @property
    def _thaw_word(self) -> str:
        return "0" if self.unified else "THAWED"

    def state(self) -> FreezerState:
        """Read the state. Raises NotFound when there is no such cgroup."""
        try:
            return _state_v2(self.path) if self.unified else _state_v1(self.path)
        except OSError as e:
            raise NotFound(f"reading the freezer {self.path}: {e.strerror}") from e

    def processes(self) -> tuple[int, ...]:
        """Return the members' pids in this process's namespace; none without such a cgroup.

        Raises OSError for any other cause, such as too many open files.
        """
        try:
            return cgroups.pids((self.path / "cgroup.procs").read_text())
        except OSError as e:
            if e.errno in {errno.ENOENT, errno.ENODEV}:
                return ()
            raise

    async def freeze(self, *, timeout_seconds: float = FREEZE_TIMEOUT_SECONDS) -> None:
        """Freeze, and return when all tasks have stopped.

        Raises DeadlineExceeded when some task does not stop in time. Then, and after a cancel, the
        cgroup is thawed again.
        """
        self._write(self.freeze_word)
        try:
            await self._wait_until_frozen(time.monotonic() + timeout_seconds)
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Let all tasks run. The kernel does it within the write, for all of them or none."""
        self._write(self._thaw_word)

    def request_freeze(self) -> FreezerState:
        """Request a freeze and return the state, without waiting.

        Tasks that are stopped by ptrace count as frozen at once, in v1 and v2.
        """
        self._write(self.freeze_word)
        return self.state()

    async def _wait_until_frozen(self, deadline: float) -> None:
        pause = LONGEST_POLL_SECONDS / 8
        while not self._is_frozen_soon():
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"freezing {self.path.name}: some task does not stop",
                    reason=Reason.FREEZE_TIMED_OUT,
                    hint=Reason.FREEZE_TIMED_OUT.hint,
                )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_POLL_SECONDS)
            if not self.unified:
                # v1 can miss a task that forks, and finds it at the next request
                self._write(self.freeze_word)

    def _is_frozen_soon(self) -> bool:
        """Poll a few times without the event loop, whose shortest sleep is 1 ms."""
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
        """Freeze all tasks within the context. Blocking. Raises DeadlineExceeded.

        A cgroup that was frozen before stays so.
        """
        before = self.state()
        self._write(self.freeze_word)
        try:
            deadline = time.monotonic() + timeout_seconds
            while not self._is_frozen_soon():
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
        """Return the processes that a signal has stopped, whether the cgroup is frozen or not.

        In a frozen v1 cgroup every task has the state D, so the wait channel tells them apart.
        """
        return tuple(pid for pid in self.processes() if _is_stopped(pid))


@dataclass(frozen=True)
class Paused:
    """A pause in progress, which ends early if someone else thaws the cgroup."""

    freezer: Freezer

    def unbroken(self) -> bool:
        """Whether the cgroup is still frozen."""
        return self.freezer.state() is FreezerState.FROZEN


def freezer_of(cgroup: str) -> Freezer:
    """Return the freezer of a cgroup, which need not exist yet."""
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
    """Return the kernel function that a task waits in; empty when it does not wait."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{task}/wchan").read_text()
    return ""
