"""What an agent reports of its node, besides what the status of its NodeAgent has."""

from __future__ import annotations

from transship.agentapi.message import Message


class Leftover(Message):
    """Something of a container that no record owns. alive: a process runs, so it is kept."""

    container: str
    what: tuple[str, ...]
    alive: bool = False


class QuarantinedRecord(Message):
    """A record that the agent could not read; it leaves its container alone."""

    container: str
    file: str
    reason: str
    message: str


class NodeReport(Message):
    leftovers: tuple[Leftover, ...] = ()
    quarantined: tuple[QuarantinedRecord, ...] = ()
