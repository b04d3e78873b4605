"""What the target's role works with, and what its parts share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from transship.agent.journal.store import Journal
from transship.agent.journal.transitions import Record
from transship.agent.migration.ports import Bundles, Copies, MigrationNetwork, Residents
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.client.peer import PeerClient
from transship.agentapi.states import RecordState
from transship.common.clock import Clock
from transship.common.errors import NotFound

T = TypeVar("T")


@dataclass(frozen=True)
class TargetDeps:
    """The rest of the agent, as the target needs it.

    vacate ends what an earlier move away has left of a container here (source.Source.vacate).
    """

    journal: Journal
    copies: Copies
    bundles: Bundles
    network: MigrationNetwork
    residents: Residents
    peers: PeerClient
    clock: Clock
    vacate: Callable[[str], Awaitable[None]]

    def record(self, incoming: IncomingMigration) -> Record:
        """What was promised about the container of an arrival. Raises NotFound."""
        record = self.journal.get(incoming.container)
        if record is None or incoming.migration not in {record.migration, record.arrived_by}:
            raise NotFound(f"migration {incoming.migration} does not arrive here")
        return record

    def state(self, incoming: IncomingMigration) -> RecordState | None:
        """Of the record, while it is about this arrival."""
        record = self.journal.get(incoming.container)
        mine = record is not None and record.migration == incoming.migration
        return record.state if record is not None and mine else None

    def has_arrived(self, incoming: IncomingMigration) -> bool:
        record = self.journal.get(incoming.container)
        return record is not None and record.arrived_by == incoming.migration

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
