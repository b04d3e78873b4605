"""Sets file locks again that a held copy has lost, before it resumes (see criu.file_locks).

Nearly always none was lost: then the resume is a thaw and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loguru import logger

from transship.api.reasons import Reason
from transship.criu import file_locks
from transship.criu.failures import CheckpointFailed
from transship.criu.file_locks import FileLock
from transship.linux import ptrace
from transship.linux.freezer import Freezer
from transship.linux.processes import lookup
from transship.linux.ptrace import Tracee

_SYS_FCNTL, _SETLK = 72, 6

Lost = tuple[tuple[int, FileLock], ...]
"""Locks that the restore has lost, each with the process that had it."""


def require_keepable(freezer: Freezer, images: Path) -> None:
    """Raise CheckpointFailed where a held copy has lost locks that cannot be set again here."""
    lost = () if ptrace.supported() else _lost(freezer, images)
    if lost:
        raise CheckpointFailed(
            f"restoring: process {lost[0][1].process} has lost a lock on a file that it maps",
            reason=Reason.FILE_LOCKS_LOST,
        )


def resume(freezer: Freezer, images: Path) -> None:
    """Thaw. No task runs before all lost locks are set again. Blocking."""
    lost = _lost(freezer, images)
    if not lost:
        freezer.thaw()
        return
    # SIGSTOPped tasks do not run after the thaw, and ptrace cannot seize them while frozen
    asleep = set(freezer.stopped_tasks())
    awake = [pid for pid in freezer.processes() if pid not in asleep]
    owners = {pid: _set_locks(lost, pid) for pid, _ in lost if pid in awake}
    for pid, lock in lost:
        if pid not in owners:
            log = logger.bind(process=lock.process, descriptor=lock.descriptor)
            log.error("a stopped process will run without a file lock that it had")
    ptrace.start_after(_threads(awake), start=freezer.thaw, acts=owners)


def _lost(freezer: Freezer, images: Path) -> Lost:
    locks = file_locks.read(images)
    return file_locks.lost(locks, lookup(freezer.processes())) if locks else ()


def _set_locks(lost: Lost, pid: int) -> Callable[[Tracee], None]:
    def act(tracee: Tracee) -> None:
        for owner, lock in lost:
            if owner != pid:
                continue
            try:
                tracee.syscall_on(_SYS_FCNTL, lock.descriptor, _SETLK, lock.flock)
            # the other locks are set all the same
            except OSError as e:
                logger.bind(process=lock.process, error=str(e)).error("a file lock is lost")

    return act


def _threads(pids: list[int]) -> list[int]:
    return [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
