"""The error of a dump, a restore or a page stream that failed, and the reasons for refusing one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.criu import log as criu_log

_MISSING_PAGES = re.compile(rb"^VmFlags:.* um ", re.MULTILINE)


class CheckpointFailed(TransshipError):
    """A dump, restore or page stream failed.

    `reason` and `hint` name the cause in the container or on the node; `log_tail` is the end of
    CRIU's log.
    """

    def __init__(self, message: str, *, reason: Reason, hint: str = "", log_tail: str = "") -> None:
        super().__init__(message, reason=reason, hint=hint or reason.hint)
        self.log_tail = log_tail


def from_log(log: Path, *, doing: str, otherwise: Reason, error: str = "") -> CheckpointFailed:
    """Explain a failure by CRIU's log, or by `error` when CRIU wrote no log."""
    text = criu_log.read_log(log)
    diagnosis = criu_log.diagnose(text, otherwise=otherwise)
    message = error if error and not text else diagnosis.message
    return CheckpointFailed(
        f"{doing}: {message}",
        reason=diagnosis.reason,
        hint=diagnosis.hint,
        log_tail=diagnosis.tail,
    )


def timed_out(log: Path, *, doing: str, reason: Reason, seconds: float) -> CheckpointFailed:
    """Report a deadline that passed, with the end of CRIU's log."""
    tail = criu_log.log_tail(criu_log.read_log(log))
    return CheckpointFailed(f"{doing}: not done in {seconds:g} s", reason=reason, log_tail=tail)


def require_no_missing_pages(pids: Iterable[int]) -> None:
    """Raise CheckpointFailed when a process still waits for pages of its last migration.

    Such pages are not in its page tables: a dump would omit them, and the next restore would give
    zeros. A registered userfaultfd shows as the flag `um` in /proc/PID/smaps.
    """
    for pid in pids:
        # a process that has ended waits for nothing
        with contextlib.suppress(OSError):
            if _MISSING_PAGES.search(Path(f"/proc/{pid}/smaps").read_bytes()):
                raise still_arriving()


def still_arriving() -> CheckpointFailed:
    """Build the error for a container whose memory is not complete yet."""
    return CheckpointFailed(
        "dumping: its memory of the move before has not all arrived yet", reason=Reason.IN_MIGRATION
    )
