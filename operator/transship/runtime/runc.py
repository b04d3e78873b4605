"""runc: its commands, and its state of a container."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from transship.common.errors import CommandFailed, DeadlineExceeded
from transship.common.processes import Finished, run
from transship.linux import mounts, processes
from transship.runtime import plain_process

COMMAND_TIMEOUT_SECONDS = 30.0


class Status(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    ABSENT = "absent"


@dataclass(frozen=True)
class RuncState:
    """The state of a container; `pid` is its process 1, also of one that has ended."""

    status: Status
    pid: int | None = None


class _InitProcess(BaseModel):
    """The part of runc's state.json that identifies the container's process 1."""

    init_process_pid: int
    init_process_start: int


@dataclass(frozen=True)
class Executed:
    """The result of a command in the container; `output` is its stdout and stderr."""

    status: int
    output: str


class Runc:
    """The runc of this node, with its state below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def state(self, container_id: str) -> RuncState:
        """Read the state from the file that `runc state` (25 ms) reads; frozen is running."""
        try:
            recorded = _InitProcess.model_validate_json(
                (self.root / container_id / "state.json").read_bytes()
            )
        except FileNotFoundError:
            return RuncState(Status.ABSENT)
        pid = recorded.init_process_pid
        if not _runs(pid, start_time=recorded.init_process_start):
            return RuncState(Status.STOPPED, pid)
        waiting = (self.root / container_id / "exec.fifo").exists()
        return RuncState(Status.CREATED if waiting else Status.RUNNING, pid)

    async def start(self, container_id: str) -> None:
        await self._run(["start", container_id])

    async def delete(self, container_id: str) -> None:
        """Delete a container, also one that runs, or that runc does not know.

        A killed restore leaves the root file system mounted in runc's state (`criu-root`), and runc
        deletes its state recursively: through that mount, all files of the container. So the mounts
        go first.
        """
        for point in mounts.mounts_below(self.root / container_id):
            mounts.unmount(point)
        await self._run(["delete", "--force", container_id])

    async def execute(
        self, container_id: str, argv: Sequence[str], *, pidfile: Path, timeout_seconds: float
    ) -> Executed:
        """Run a command in the container, as its user and with its environment.

        After the deadline or a cancel the command is killed too, not only runc: it would stay in
        the container, with pipes to the node that CRIU cannot dump.
        """
        words = ["exec", "--pid-file", str(pidfile), container_id, *argv]
        try:
            done = await run(
                plain_process.words(["runc", "--root", self.root, *words]),
                env=plain_process.environment(),
                timeout_seconds=timeout_seconds,
            )
        except CommandFailed as e:
            return Executed(e.status, e.output)
        except DeadlineExceeded as e:
            _kill_command(pidfile)
            message = f"running {argv[0]}: not done in {timeout_seconds:g} s"
            raise DeadlineExceeded(message) from e
        except asyncio.CancelledError:
            _kill_command(pidfile)
            raise
        finally:
            pidfile.unlink(missing_ok=True)
        return Executed(0, done.stdout + done.stderr)

    async def _run(self, words: Sequence[str]) -> Finished:
        return await run(
            ["runc", "--root", self.root, *words],
            env=plain_process.environment(),
            timeout_seconds=COMMAND_TIMEOUT_SECONDS,
        )


def _runs(pid: int, *, start_time: int) -> bool:
    """Whether this process runs: a later one with the same pid has another start time."""
    try:
        stat = processes.stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.state not in processes.ENDED_STATES and stat.start_time == start_time


def _kill_command(pidfile: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(pidfile.read_text()), signal.SIGKILL)
