"""What the source's role works with, and what its three parts share."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from transship.agent.journal.store import Journal
from transship.agent.journal.transitions import Record
from transship.agent.migration.handover_queue import HandoverQueue
from transship.agent.migration.ports import (
    Bundles,
    Copies,
    CpuThrottle,
    MigrationNetwork,
    Residents,
)
from transship.agent.migration.source.handover_stats import HandoverStats
from transship.agentapi.client.peer import PeerClient
from transship.common.clock import Clock
from transship.common.errors import NotFound, TransshipError


@dataclass(frozen=True)
class SourceDeps:
    """The rest of the agent, as the source needs it."""

    journal: Journal
    copies: Copies
    bundles: Bundles
    network: MigrationNetwork
    residents: Residents
    peers: PeerClient
    streams: ssl.SSLContext
    clock: Clock
    cpu_throttle: CpuThrottle
    handover_queue: HandoverQueue
    handover_stats: HandoverStats
    end_probe: Callable[[str], Awaitable[None]]
    """See forecasts: nobody else follows the container's writes from then on."""

    def record(self, container: str) -> Record:
        """What was promised about a container that is here. Raises NotFound."""
        record = self.journal.get(container)
        if record is None:
            raise NotFound(f"container {container} is not on this node")
        return record


def cancelled() -> TransshipError:
    return TransshipError("cancelled", reason="MigrationCancelled")
