"""The messages between an agent and a page server, on the page server's control socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

SOCKET_NAME = "page-server.socket"
"""In the working folder of a container's images, for as long as the page server works."""
PIDFILE_NAME = "page-server.pid"

BEGIN = b"begin\n"
"""The guard waits for this on its standard input. Without it, the guard ends."""


class Question(StrEnum):
    """What an agent asks. The answer comes once the condition holds, or with an error."""

    # both wait for the end of the restore as well
    ALL_STORED = "AllStored"  # every page of the dump is stored
    FINAL = "Final"  # the source is frozen, and no stored page is stale any more
    END = "End"  # the processes have all of their pages
    COMPOSE = "Compose"  # the images of shared memory are complete (memory.shared_images)
    STATE = "State"  # answered at once


@dataclass(frozen=True)
class Answer:
    """The progress of a page server. `error` says why the condition cannot hold any more.

    missing: pages of the dump that are not stored. received: pages that this worker has stored,
    repeated ones too. guarded: the guard lives.
    """

    missing: int = 0
    received: int = 0
    guarded: bool = True
    error: str = ""


def encode(answer: Answer) -> bytes:
    return json.dumps(asdict(answer)).encode() + b"\n"


def decode(line: bytes) -> Answer:
    """Raises ValueError if this is not a complete answer.

    A page server may be older or newer than the agent that asks it: unknown fields are ignored.
    """
    if not line.endswith(b"\n"):
        raise ValueError("the connection was closed before the answer was complete")
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - it is input
    values = {field.name: data[field.name] for field in fields(Answer) if field.name in data}
    for name, value in values.items():
        if type(value) is not type(getattr(Answer(), name)):
            raise ValueError(f"{name} of the answer is {value!r}")
    return Answer(**values)
