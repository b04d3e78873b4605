"""How an error travels between an agent and its clients: a status and a `Failure` as the body.

The agent's server encodes with `status_of` and `failure_of`. Every client decodes with
`error_from`, so that an error keeps its reason, message and hint on the way.
"""

from __future__ import annotations

from pydantic import ValidationError

from transship.agentapi.message import Message
from transship.api.reasons import Reason
from transship.common.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Refused,
    TransshipError,
    Unreachable,
)


class Failure(Message):
    """The body of every reply that is not 2xx."""

    reason: str
    message: str
    hint: str = ""


class Forbidden(Refused):
    """The certificate does not permit the request."""

    reason = Reason.FORBIDDEN


_STATUSES: tuple[tuple[type[TransshipError], int], ...] = (
    (Forbidden, 403),
    (InvalidInput, 400),
    (NotFound, 404),
    (Refused, 409),
    (Unreachable, 502),
    (DeadlineExceeded, 504),
)


def status_of(error: TransshipError) -> int:
    """The HTTP status that an agent replies with."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def failure_of(error: TransshipError) -> Failure:
    return Failure(reason=error.reason, message=error.message, hint=error.hint)


def error_from(status: int, content: bytes, *, node: str) -> TransshipError | None:
    """The error that the agent of this node reports. None where the body is no Failure.

    A failure that an agent reports is an answer, so it is never Unreachable.
    """
    try:
        failure = Failure.model_validate_json(content)
    except ValidationError:
        return None
    kind = NotFound if status == 404 else Refused if status < 500 else TransshipError
    return kind(f"node {node}: {failure.message}", reason=failure.reason, hint=failure.hint)
