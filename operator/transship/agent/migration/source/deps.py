"""What the source's role works with: its own ports, and all that app.py hands to it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transship.agent.journal.record import Record
from transship.agent.journal.store import Journal
from transship.agent.migration.handover_queue import HandoverQueue
from transship.agent.migration.ports import Bundles, MigrationNetwork, Residents
from transship.agent.migration.source.handover_stats import HandoverStats
from transship.agentapi.client.peer import PeerClient
from transship.agentapi.migrations import MemoryEndpoint
from transship.api.migration import MemoryTraffic
from transship.api.placement import Compression
from transship.common.clock import Clock
from transship.common.errors import NotFound, TransshipError
from transship.memory.copy_progress import CopyRound
from transship.strategies import MigrationStrategy
from transship.streams.bandwidth_limit import BandwidthLimit


@dataclass(frozen=True)
class Dumped:
    """A dump that is complete but for the memory; its images lie in `images`."""

    images: Path
    criu_seconds: float = 0.0
    # as CRIU wrote them: less is sent, without the shared memory that was copied ahead
    image_bytes: int = 0
    # by CRIU, in the container's file systems (link remap)
    made_files: bool = False


@dataclass(frozen=True)
class StreamOptions:
    """How pages are sent."""

    strategy: MigrationStrategy
    bandwidth: BandwidthLimit
    compression: Compression


class Checkpoints(Protocol):
    """The processes of a container that leaves this node."""

    async def ready(
        self, container: str, *, to: MemoryEndpoint, node: str, options: StreamOptions
    ) -> None:
        """Start and connect all that the dump and the memory need, while the container runs."""
        ...

    async def unready(self, container: str) -> None:
        """Undo `ready`: end the streams, and a dump that is under way; harmless without it."""
        ...

    async def freeze(self, container: str) -> None:
        """Stop all tasks; returns when the kernel reports that they are stopped."""
        ...

    async def thaw(self, container: str) -> None:
        """Let a frozen copy run on (rollback), whatever became of its dump."""
        ...

    async def dump(self, container: str) -> Dumped:
        """Dump everything but the memory; the container is frozen."""
        ...

    async def destroy(self, container: str) -> None:
        """End a frozen copy without letting it run one instruction more."""
        ...

    def mapped(self, container: str) -> frozenset[str]:
        """Files, by the container's paths, that its processes can write through a mapping."""
        ...


class MemoryTransfer(Protocol):
    """The memory of a container that leaves this node, once Checkpoints.ready has connected it."""

    async def reserve(self, container: str) -> int:
        """Have the target make room for memory of which nothing is sent before the freeze.

        Returns the number of pages.
        """
        ...

    async def copy_shared(self, container: str) -> None:
        """Copy what has changed of the memory that the running container's processes share.

        The dump has all of it: what the target has by then is left out of the images.
        """
        ...

    async def copy_round(self, container: str) -> CopyRound:
        """Copy what has changed of the running container's memory; all of it at first."""
        ...

    async def remaining_pages(self, container: str) -> int | None:
        """How many pages have changed since the last round; None where that is not known."""
        ...

    def begin_sending(self, container: str) -> None:
        """After the freeze, beside the dump: begin to send what the dump does not touch."""
        ...

    async def send(self, container: str) -> MemoryTraffic:
        """After the dump: send what the target does not have yet; returns all that was sent."""
        ...

    async def begin_postcopy(self, container: str) -> MemoryTraffic:
        """After the dump, instead of `send`: memory follows later, page requests are answered."""
        ...

    async def push(self, container: str, *, to: MemoryEndpoint, node: str) -> MemoryTraffic:
        """Send what the target lacks of a frozen copy's memory; returns when it lacks nothing.

        Returns what this agent has sent for it.
        Raises TransshipError when it cannot go on; it can be repeated, also by another agent.
        """
        ...

    def sent_bytes(self, container: str) -> int:
        """How much has been sent so far of a memory that is being sent."""
        ...


class CpuThrottle(Protocol):
    """Slows a running container down, so that copying keeps up with its writes."""

    async def slow(self, container: str, share: float) -> None:
        """Leave it this share of its CPU time. Raises NotFound where that cannot be done."""
        ...

    def release(self, container: str) -> None:
        """Restore exactly the quota that it had; harmless where it was not slowed."""
        ...


@dataclass(frozen=True)
class SourceDeps:
    """The rest of the agent, as the source needs it."""

    journal: Journal
    checkpoints: Checkpoints
    memory: MemoryTransfer
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
    """See agent.migration.prediction: nobody else follows the container's writes from then on."""

    def record(self, container: str) -> Record:
        """The record of a container that is here. Raises NotFound."""
        record = self.journal.get(container)
        if record is None:
            raise NotFound(f"container {container} is not on this node")
        return record


def cancelled() -> TransshipError:
    """The cause of a rollback that the operator has asked for."""
    return TransshipError("cancelled", reason="MigrationCancelled")
