"""What an agent and a page server say to each other on the page server's control socket."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

SOCKET_NAME = "page-server.socket"
"""In the working folder of a container's images, for as long as the page server works."""
PIDFILE_NAME = "page-server.pid"

BEGIN = b"begin\n"
"""What the guard awaits on its standard input; without it, it ends."""


class Question(StrEnum):
    """What an agent asks."""

    # Both are answered once the restore is finished too, or with an error.
    ALL_STORED = "AllStored"  # every page of the dump is here
    FINAL = "Final"  # the source is frozen, and nothing stale is here any more
    END = "End"  # answered once the processes have all of their pages
    COMPOSE = "Compose"  # answered once the images beside it are whole (memory.shared_images)
    STATE = "State"  # answered at once


@dataclass(frozen=True)
class Answer:
    """How far it is; `error` says why what was asked for will not be.

    received: pages that this server has stored, repeated ones too.
    """

    missing: int = 0
    received: int = 0
    guarded: bool = True
    error: str = ""


def encode(answer: Answer) -> bytes:
    return json.dumps(asdict(answer)).encode() + b"\n"


def decode(line: bytes) -> Answer:
    """Raises ValueError for what is no whole answer.

    A page server may be older or newer than the agent that asks it: unknown fields are ignored.
    """
    if not line.endswith(b"\n"):
        raise ValueError("the connection has ended before the answer")
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")  # noqa: TRY004 - what was read is no argument
    given = {field.name: found[field.name] for field in fields(Answer) if field.name in found}
    for name, value in given.items():
        if type(value) is not type(getattr(Answer(), name)):
            raise ValueError(f"{name} of the answer is {value!r}")
    return Answer(**given)
