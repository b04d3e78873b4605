"""What an agent says of its node (the same facts as its NodeAgent's status)."""

from __future__ import annotations

from transship.api.node_agent import Capacity, Features, SelfTest, Versions
from transship.protocol.base import Message


class NodeReport(Message):
    node: str
    address: str
    addresses: tuple[str, ...] = ()
    boot_id: str
    versions: Versions
    features: Features
    capacity: Capacity
    self_test: SelfTest | None = None
