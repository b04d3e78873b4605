"""Every error that Transship raises on purpose.

    TransshipError
    ├── InvalidInput        the user's input cannot be accepted; names field, value and remedy
    ├── Refused             the request is well formed, but the present state forbids it
    │   └── Conflict        someone else was faster: read again and decide again
    ├── NotFound            the thing asked for does not exist
    ├── Unreachable         a peer did not answer (it may have acted all the same)
    ├── DeadlineExceeded    a step took longer than it may
    └── CommandFailed       a child process ended badly

Each carries a stable CamelCase `reason` (an API constant, shown in conditions and events), a
`message` for people and, where there is something to be done, a `hint`.
"""

from __future__ import annotations


class TransshipError(Exception):
    """The root; `reason` is stable, `message` and `hint` are for people."""

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
    """A child process ended with a non-zero status; keeps the tail of what it said."""

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
        self.argv = argv
        self.status = status
        self.output = output
