"""What the engine raises when a dump, a restore or a page stream did not come about."""

from __future__ import annotations

from pathlib import Path

from transship.api.reasons import Reason
from transship.common.errors import TransshipError
from transship.criu import log as criu_log


class CheckpointFailed(TransshipError):
    """`reason` and `hint` say what in the container or node was the cause; `log_tail` is CRIU's."""

    def __init__(self, message: str, *, reason: Reason, hint: str = "", log_tail: str = "") -> None:
        super().__init__(message, reason=reason, hint=hint or reason.hint)
        self.log_tail = log_tail


def from_log(path: Path, *, doing: str, otherwise: Reason, said: str = "") -> CheckpointFailed:
    """Explain a failure by CRIU's log, or by what else was said when CRIU got to write none."""
    log = criu_log.read_log(path)
    found = criu_log.diagnose(log, otherwise=otherwise)
    message = said if said and found.reason is otherwise and not log else found.message
    return CheckpointFailed(
        f"{doing}: {message}", reason=found.reason, hint=found.hint, log_tail=found.tail
    )


def timed_out(path: Path, *, doing: str, reason: Reason, seconds: float) -> CheckpointFailed:
    tail = criu_log.log_tail(criu_log.read_log(path))
    return CheckpointFailed(f"{doing}: not done in {seconds:g} s", reason=reason, log_tail=tail)
