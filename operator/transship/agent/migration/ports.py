"""What both roles of a migration need of the rest of the agent, each behind a few methods.

What only one role needs is in its deps. Tests replace all of it by small real classes
(tests/fakes); app.py composes the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transship.agent.journal.record import Record
from transship.agentapi.migrations import Lifecycle, Peer
from transship.api.obstacle import Obstacle


@dataclass(frozen=True)
class Trees:
    """Directories that move with a container, relative to its home.

    `opaque` are those whose files can change without a new modification time (on tmpfs, where
    stores to a mapping never update it): every file there counts as changed.
    `log` is the container's log, which the target's conmon has open already.
    """

    names: tuple[str, ...]
    opaque: tuple[str, ...] = ()
    log: str | None = None


class Bundles(Protocol):
    """What a container needs besides its processes: image, root file system, volumes, bundle."""

    async def prepare(self, record: Record) -> str:
        """Prepare all that is possible before the files come; returns the image's digest."""
        ...

    async def mount(self, container: str) -> None:
        """Mount the root file system: not before the last file has come."""
        ...

    async def remove(self, container: str) -> None:
        """Unmount and delete all of it."""
        ...

    def home(self, container: str) -> Path:
        """The folder that has the `trees`."""
        ...

    def trees(self, record: Record) -> Trees:
        """What moves with the container."""
        ...

    def mapped(self, record: Record, paths: frozenset[str]) -> frozenset[str]:
        """Translate paths inside the container to paths relative to its home."""
        ...


class MigrationNetwork(Protocol):
    """The container's address on this node. Every call takes a few milliseconds at most."""

    def create(self, record: Record) -> None:
        """Create the container's network, without answering for the address."""
        ...

    def hold(self, record: Record) -> None:
        """Queue packets for the address from now on."""
        ...

    def release(self, record: Record) -> None:
        """Deliver what is queued, answer for the address, announce it."""
        ...

    def divert(self, record: Record, *, via: Peer) -> None:
        """Send packets for the address to the target's node; the container can still send."""
        ...

    async def await_reads(self, record: Record) -> None:
        """Give the program a moment to read what its sockets have: a dump would lose it."""
        ...

    def block(self, record: Record) -> None:
        """Let no packet leave a diverted container any more."""
        ...

    def undivert(self, record: Record) -> None:
        """Deliver packets here again, and announce the address (rollback)."""
        ...

    def return_packets(self, record: Record) -> None:
        """Send what is queued here back to the source, which goes on with the container."""
        ...

    def forward(self, record: Record, *, via: Peer) -> None:
        """The address lives elsewhere: stop answering for it, forward what still comes."""
        ...

    def remove(self, record: Record) -> None:
        """Remove the container's network."""
        ...


class Residents(Protocol):
    """The containers that this agent supervises: restarts, probes, reports."""

    def adopt(self, record: Record, *, pid: int | None, lifecycle: Lifecycle | None) -> None:
        """Supervise a container that has come from elsewhere, and may be in back-off."""
        ...

    async def wait_for_step(self, container: str) -> int | None:
        """Wait for the step that is under way for a container, such as a graceful stop.

        Returns process 1 of the instance that runs. Where none runs, its end is recorded.
        """
        ...

    def instance(self, container: str) -> int | None:
        """Process 1 of the instance that runs at this moment."""
        ...

    async def record_exit(self, container: str) -> bool:
        """Whether the instance had ended by itself before it was stopped; its end is recorded."""
        ...

    def lifecycle(self, container: str) -> Lifecycle:
        """What the target must know of a frozen copy besides its images."""
        ...

    def disown(self, container: str) -> None:
        """Stop supervising: the end of its processes is not an exit."""
        ...

    async def find_obstacles(self, container: str) -> tuple[Obstacle, ...]:
        """What in a running container prevents a live move at this moment."""
        ...

    async def pause_probes(self, container: str) -> None:
        """Run no probe in the container: CRIU cannot dump an exec probe. readopt undoes it."""
        ...

    def readopt(self, container: str) -> None:
        """Supervise a disowned container again: the move was rolled back."""
        ...

    async def start(self, record: Record) -> None:
        """Start from the image, as at first (Cold)."""
        ...

    async def stop(self, container: str) -> None:
        """Stop with signal and grace (Cold); the record stays."""
        ...
