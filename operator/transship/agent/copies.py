"""The copies of containers as processes, for both roles of a migration (the port Copies)."""

from __future__ import annotations

from pathlib import Path

from transship.agent.ports import Copies, Dumped, Restored
from transship.common.errors import Refused
from transship.protocol.migrations import MemoryEndpoint
from transship.runtime.containers import Runtime


class NodeCopies(Copies):
    """Stand-in until dump and restore are there."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
