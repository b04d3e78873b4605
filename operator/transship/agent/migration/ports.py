"""What the two roles of a migration need of the rest of the agent, each behind a few methods.

Tests replace them by small real classes (tests/fakes); app.py composes the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transship.agent.journal.transitions import Record
from transship.agentapi.migrations import Lifecycle, MemoryEndpoint, Peer
from transship.api.migration import MemoryTraffic
from transship.api.obstacle import Obstacle
from transship.api.placement import Compression
from transship.memory.rounds import CopyRound
from transship.strategies import MigrationStrategy
from transship.streams.bandwidth_limit import Pace


@dataclass(frozen=True)
class Dumped:
    """A dump that is complete but for the memory; its images lie in `images`."""

    images: Path
    criu_seconds: float = 0.0
    image_bytes: int = 0  # as CRIU wrote them; less goes of shared memory that was copied ahead
    made_files: bool = False  # in the container's file systems (link remap)


@dataclass(frozen=True)
class StreamWish:
    """How pages are to be sent."""

    strategy: MigrationStrategy
    pace: Pace
    compression: Compression


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


@dataclass(frozen=True)
class Restored:
    """A copy that is restored and held."""

    pid: int


class Copies(Protocol):
    """The copies of containers as processes: freezing, dumping, restoring, ending them."""

    async def freeze(self, container: str) -> None:
        """Stop all tasks; returns when the kernel says that they are stopped."""
        ...

    async def thaw(self, container: str) -> None:
        """Let a frozen copy run on (the way back), after a dump of any outcome."""
        ...

    async def ready(
        self, container: str, *, to: MemoryEndpoint, node: str, wish: StreamWish
    ) -> None:
        """Start and connect all that the dump needs, while the container still runs."""
        ...

    async def unready(self, container: str) -> None:
        """Undo ready where no dump followed; harmless else."""
        ...

    async def announce_memory(self, container: str) -> int:
        """Have the target make room for memory of which nothing is sent before the freeze.

        Returns how many pages that is.
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

    async def left_pages(self, container: str) -> int | None:
        """How many pages have changed since the last round; None where that cannot be told."""
        ...

    async def dump(self, container: str) -> Dumped:
        """Dump everything but the memory; the container is frozen."""
        ...

    def begin_memory(self, container: str) -> None:
        """After the freeze, beside the dump: begin to send what the dump leaves alone."""
        ...

    async def send_memory(self, container: str) -> MemoryTraffic:
        """After the dump: send what the target does not have yet; returns all that was sent."""
        ...

    async def promise_memory(self, container: str) -> MemoryTraffic:
        """After the dump, instead of send_memory: memory follows, page requests are answered."""
        ...

    async def push_memory(self, container: str, *, to: MemoryEndpoint, node: str) -> MemoryTraffic:
        """Send what the target lacks of a frozen copy's memory; returns when it lacks nothing.

        Returns what this agent has sent for it.
        Raises TransshipError when it cannot go on; it can be repeated, also by another agent.
        """
        ...

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        """Get ready for memory and dump of that node's agent; one at a time per container."""
        ...

    async def received(
        self, container: str, *, follows: bool = False, timeout_seconds: float
    ) -> None:
        """Wait until every page of the restored copy is on this node. Raises when it cannot.

        Where the memory follows: until no page is here that has changed since it was sent.
        """
        ...

    def sent_bytes(self, container: str) -> int:
        """What has gone to the target of a memory that is being sent."""
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

    async def restore(self, container: str, *, timeout_seconds: float) -> Restored: ...

    async def resume(self, container: str) -> None:
        """Let a held copy run."""
        ...

    async def settle(self, container: str) -> None:
        """Drop what the restore needed, once the copy runs.

        PageServerDead: lose_memory is due. PageServerSilent: nobody knows yet; call it again.
        """
        ...

    async def destroy(self, container: str) -> None:
        """End a copy without letting it run one instruction more: frozen, held or half restored."""
        ...

    def images(self, container: str) -> Path:
        """The folder (on tmpfs) of the images of a dump."""
        ...

    def mapped(self, container: str) -> frozenset[str]:
        """Files, by the container's paths, that its processes can write through a mapping."""
        ...


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


class CpuThrottle(Protocol):
    """Slowing a running container down, so that its memory can be caught up with."""

    async def slow(self, container: str, share: float) -> None:
        """Leave it this share of its CPU time. Raises NotFound where that cannot be done."""
        ...

    def release(self, container: str) -> None:
        """Give back exactly what it had; harmless where it was not slowed."""
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
