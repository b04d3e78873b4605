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

    `opaque` are those whose files can change without a trace in their times (on tmpfs, where a
    mapping's stores never touch them): every file there counts as changed.
    `log` is what the container has said: the target's conmon has that file open already.
    """

    names: tuple[str, ...]
    opaque: tuple[str, ...] = ()
    log: str | None = None


class Bundles(Protocol):
    """What a copy needs besides its processes: image, root file system, volumes, bundle."""

    async def prepare(self, record: Record) -> str:
        """Everything that can be had before the files arrive; returns the image's digest."""
        ...

    async def mount(self, container: str) -> None:
        """Put the root file system together: not before the last file has arrived."""
        ...

    async def remove(self, container: str) -> None:
        """Unmount and delete all of it."""
        ...

    def home(self, container: str) -> Path:
        """The folder whose `trees` move."""
        ...

    def trees(self, record: Record) -> Trees:
        """What moves with the container."""
        ...

    def mapped(self, record: Record, paths: frozenset[str]) -> frozenset[str]:
        """Where files that the container calls by these paths lie, relative to home."""
        ...


class MigrationNetwork(Protocol):
    """The container's address on this node. Every call takes a few milliseconds at most."""

    def create_held(self, record: Record) -> None: ...

    def hold(self, record: Record) -> None:
        """Queue packets for the address from now on."""
        ...

    def release(self, record: Record) -> None:
        """Deliver what is queued, answer for the address, announce it."""
        ...

    def divert(self, record: Record, *, via: Peer) -> None:
        """Send packets for the address to the target's node; what the copy says goes out."""
        ...

    async def take_up(self, record: Record) -> None:
        """Give the program of a diverted copy a moment for what has come: a dump loses it."""
        ...

    def shut(self, record: Record) -> None:
        """Let nothing leave a diverted copy any more."""
        ...

    def undivert(self, record: Record) -> None: ...

    def give_back(self, record: Record) -> None:
        """Send what is queued here back to the source, which goes on with the container."""
        ...

    def leave(self, record: Record, *, via: Peer) -> None:
        """The address lives elsewhere: stop answering for it, forward what still comes."""
        ...

    def remove(self, record: Record) -> None: ...


class Residents(Protocol):
    """The containers that this agent looks after (restarts, probes, reports)."""

    def adopt(self, record: Record, *, pid: int | None, lifecycle: Lifecycle | None) -> None:
        """Look after a container that has come from elsewhere, and may be in back-off."""
        ...

    async def wait_for_step(self, container: str) -> int | None:
        """Wait for what is just being done to a container, such as a stop with its grace.

        Returns process 1 of the instance that runs. Where none does its end is noted.
        """
        ...

    def instance(self, container: str) -> int | None:
        """Process 1 of the instance that runs at this moment."""
        ...

    async def record_exit(self, container: str) -> bool:
        """Whether a copy that was to be frozen or stopped had ended by itself; that is noted."""
        ...

    def lifecycle(self, container: str) -> Lifecycle:
        """What the target has to know of a frozen copy beside its images."""
        ...

    def disown(self, container: str) -> None:
        """Leave a copy alone: its end is not an exit."""
        ...

    async def find_obstacles(self, container: str) -> tuple[Obstacle, ...]:
        """What in a running container keeps it from being moved live, right now."""
        ...

    async def pause_probes(self, container: str) -> None:
        """Run nothing in it any more (an exec probe cannot be dumped); keep undoes it."""
        ...

    def readopt(self, container: str) -> None:
        """Look after a copy again that was disowned: the move did not happen."""
        ...

    async def start(self, record: Record) -> None:
        """Start from the image, as at first (Cold)."""
        ...

    async def stop(self, container: str) -> None:
        """Stop with signal and grace (Cold); the record stays."""
        ...
