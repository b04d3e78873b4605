"""What an agent says of its node (the same facts as its NodeAgent's status)."""

from __future__ import annotations

from transship.api.node_agent import Capacity, Features, SelfTest, Versions
from transship.protocol.base import Message


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
    node: str
    address: str
    addresses: tuple[str, ...] = ()
    boot_id: str
    versions: Versions
    features: Features
    capacity: Capacity
    self_test: SelfTest | None = None
    leftovers: tuple[Leftover, ...] = ()
    quarantined: tuple[QuarantinedRecord, ...] = ()
