"""What the target's role works with, and what its parts share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from transship.agent.arrival import Arrival
from transship.agent.journal import Journal
from transship.agent.peers import PeerClient
from transship.agent.ports import Bundles, Copies, Residents, Wires
from transship.agent.records import Record
from transship.common.clock import Clock
from transship.common.errors import NotFound
from transship.protocol.states import RecordState

T = TypeVar("T")


@dataclass(frozen=True)
class TargetParts:
    """The rest of the agent, as the target needs it.

    vacate ends what an earlier move away has left of a container here (source.Source.vacate).
    """

    journal: Journal
    copies: Copies
    bundles: Bundles
    wires: Wires
    residents: Residents
    peers: PeerClient
    clock: Clock
    vacate: Callable[[str], Awaitable[None]]

    def record(self, arrival: Arrival) -> Record:
        """What was promised about the container of an arrival. Raises NotFound."""
        record = self.journal.get(arrival.container)
        if record is None or arrival.migration not in {record.migration, record.arrived_by}:
            raise NotFound(f"migration {arrival.migration} does not arrive here")
        return record

    def state(self, arrival: Arrival) -> RecordState | None:
        """Of the record, while it is about this arrival."""
        record = self.journal.get(arrival.container)
        mine = record is not None and record.migration == arrival.migration
        return record.state if record is not None and mine else None

    def has_arrived(self, arrival: Arrival) -> bool:
        record = self.journal.get(arrival.container)
        return record is not None and record.arrived_by == arrival.migration

    def is_of_this_boot(self, record: Record) -> bool:
        return record.ordered_boot == self.journal.boot


async def in_thread(work: Callable[[T], None], about: T) -> None:
    """A thread cannot be cancelled: whoever is, waits for it, so that nothing passes it."""
    thread = asyncio.create_task(asyncio.to_thread(work, about))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        raise
