"""What the target's role works with: its own port, and all that app.py hands to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transship.agent.journal.record import Record
from transship.agent.journal.store import Journal
from transship.agent.migration.ports import Bundles, MigrationNetwork, Residents
from transship.agent.migration.target.incoming import IncomingMigration
from transship.agentapi.client.peer import PeerClient
from transship.agentapi.migrations import MemoryEndpoint
from transship.agentapi.states import RecordState
from transship.common.clock import Clock
from transship.common.errors import NotFound


@dataclass(frozen=True)
class Restored:
    """A copy that is restored, and held (frozen until the source's verdict)."""

    pid: int


class Restores(Protocol):
    """The processes and the memory of a container that comes to this node."""

    def images(self, container: str) -> Path:
        """The folder (on tmpfs) of the images of a dump."""
        ...

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        """Get ready for memory and dump of that node's agent; one at a time per container."""
        ...

    async def restore(self, container: str, *, timeout_seconds: float) -> Restored:
        """Restore from the images, held. `timeout_seconds` runs from the last page received."""
        ...

    async def received(
        self, container: str, *, follows: bool = False, timeout_seconds: float
    ) -> None:
        """Wait until every page of the restored copy is on this node. Raises when it cannot.

        Where the memory follows: until no page is here that has changed since it was sent.
        """
        ...

    async def resume(self, container: str) -> None:
        """Let a held copy run."""
        ...

    async def settle(self, container: str) -> None:
        """Drop what the restore needed, once the copy runs.

        PageServerDead: lose_memory is due. PageServerSilent: nobody knows yet; call it again.
        """
        ...

    async def lacks_memory(self, container: str) -> bool:
        """Whether pages of a copy that was moved here are still to come."""
        ...

    async def lose_memory(self, container: str) -> None:
        """End a copy that lacks pages, which will never come."""
        ...

    def awaits_memory(self, container: str) -> bool:
        """Whether a copy that was moved here has not got all of its memory yet."""
        ...

    async def destroy(self, container: str) -> None:
        """End a held or half-restored copy without letting it run one instruction more."""
        ...


@dataclass(frozen=True)
class TargetDeps:
    """The rest of the agent, as the target needs it."""

    journal: Journal
    restores: Restores
    bundles: Bundles
    network: MigrationNetwork
    residents: Residents
    peers: PeerClient
    clock: Clock
    vacate: Callable[[str], Awaitable[None]]
    """Removes what an earlier move away has left of a container here (Source.vacate)."""

    def record(self, incoming: IncomingMigration) -> Record:
        """The record of an incoming container. Raises NotFound."""
        record = self.journal.get(incoming.container)
        if record is None or incoming.migration not in {record.migration, record.arrived_by}:
            raise NotFound(f"migration {incoming.migration} does not come to this node")
        return record

    def state(self, incoming: IncomingMigration) -> RecordState | None:
        """The record's state, while the record is about this migration."""
        record = self.journal.get(incoming.container)
        mine = record is not None and record.migration == incoming.migration
        return record.state if record is not None and mine else None

    def has_arrived(self, incoming: IncomingMigration) -> bool:
        record = self.journal.get(incoming.container)
        return record is not None and record.arrived_by == incoming.migration

    def is_of_this_boot(self, record: Record) -> bool:
        return record.ordered_boot == self.journal.boot
