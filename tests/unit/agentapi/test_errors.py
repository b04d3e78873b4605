"""An error keeps its kind, reason, message and hint on the way from an agent to its client."""

from __future__ import annotations

import pytest

from transship.agentapi.errors import Forbidden, error_from, failure_of, status_of
from transship.common.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Refused,
    TransshipError,
    Unreachable,
)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotFound("no such container"), 404, NotFound),
        (Refused("it is frozen"), 409, Refused),
        (Conflict("another order was faster"), 409, Refused),
        (Forbidden("not yours"), 403, Refused),
        (InvalidInput("epoch: is negative"), 400, Refused),
        (Unreachable("the source does not answer"), 502, TransshipError),
        (DeadlineExceeded("the dump takes too long"), 504, TransshipError),
        (TransshipError("the disk is full"), 500, TransshipError),
    ],
)
def test_an_error_arrives_as_what_it_means_to_a_client(
    error: TransshipError, status: int, kind: type[TransshipError]
) -> None:
    error.hint = "do this"
    assert status_of(error) == status
    body = failure_of(error).model_dump_json(by_alias=True).encode()
    arrived = error_from(status, body, node="node-a")
    assert type(arrived) is kind
    assert (arrived.reason, arrived.hint) == (error.reason, "do this")
    assert arrived.message == f"node node-a: {error.message}"


def test_a_body_that_is_no_failure_is_no_error_of_the_agent() -> None:
    assert error_from(502, b"Bad Gateway", node="node-a") is None
