"""What an agent says of its node besides the facts, which its NodeAgent's status has."""

from __future__ import annotations

from transship.agentapi.message import Message


class Leftover(Message):
    """Something of a container that no record owns; alive: a program runs, so it is left alone."""

    container: str
    what: tuple[str, ...]
    alive: bool = False


class QuarantinedRecord(Message):
    """A record that the agent does not obey; its container is left alone."""

    container: str
    file: str
    reason: str
    message: str


class NodeReport(Message):
    leftovers: tuple[Leftover, ...] = ()
    quarantined: tuple[QuarantinedRecord, ...] = ()
