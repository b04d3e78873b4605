"""What the source's role works with, and what its three parts share."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from transship.agent.experience import Experience
from transship.agent.journal import Journal
from transship.agent.peers import PeerClient
from transship.agent.ports import Brakes, Bundles, Copies, Residents, Wires
from transship.agent.records import Record
from transship.agent.slots import Slots
from transship.common.clock import Clock
from transship.common.errors import NotFound, TransshipError


@dataclass(frozen=True)
class SourceParts:
    """The rest of the agent, as the source needs it."""

    journal: Journal
    copies: Copies
    bundles: Bundles
    wires: Wires
    residents: Residents
    peers: PeerClient
    streams: ssl.SSLContext
    clock: Clock
    brakes: Brakes
    slots: Slots
    experience: Experience
    end_look: Callable[[str], Awaitable[None]]
    """See forecasts: nobody else follows the container's writes from then on."""

    def record(self, container: str) -> Record:
        """What was promised about a container that is here. Raises NotFound."""
        record = self.journal.get(container)
        if record is None:
            raise NotFound(f"container {container} is not on this node")
        return record


def cancelled() -> TransshipError:
    return TransshipError("cancelled", reason="MigrationCancelled")
