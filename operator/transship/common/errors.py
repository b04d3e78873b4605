"""Every error that Transship raises on purpose.

    TransshipError
    ├── InvalidInput        the input is not valid; the message names field, value and remedy
    ├── Refused             the request is valid, but the present state does not allow it
    │   └── Conflict        someone changed the object at the same time: read and decide again
    ├── NotFound            the requested object does not exist
    ├── Unreachable         a peer did not answer (it may have acted all the same)
    ├── DeadlineExceeded    a step took longer than its time limit
    └── CommandFailed       a child process failed

Each has a stable CamelCase `reason` (an API constant, shown in conditions and events), a `message`
for people and, where the user can do something, a `hint`. A message is a gerund, its object and the
cause: "reading the journal: permission denied".
"""

from __future__ import annotations


class TransshipError(Exception):
    """The base class. `reason` is stable, `message` and `hint` are for people."""

    reason = "InternalError"

    def __init__(self, message: str, *, reason: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInput(TransshipError):
    reason = "InvalidInput"


class Refused(TransshipError):
    reason = "Refused"


class Conflict(Refused):
    reason = "Conflict"


class NotFound(TransshipError):
    reason = "NotFound"


class Unreachable(TransshipError):
    reason = "Unreachable"


class DeadlineExceeded(TransshipError):
    reason = "DeadlineExceeded"


class CommandFailed(TransshipError):
    """A child process ended with a non-zero status. The message has the end of its output."""

    reason = "CommandFailed"

    def __init__(
        self,
        argv: list[str],
        status: int,
        output: str,
        *,
        reason: str | None = None,
        hint: str = "",
    ) -> None:
        tail = output.strip()[-2000:]
        message = f"running {argv[0]}: exit status {status}: {tail}"
        super().__init__(message, reason=reason, hint=hint)
        self.status = status
        self.output = output
