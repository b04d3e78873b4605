"""What there is of one container on all nodes, and the ports through which an agent changes it.

The world outlives agents. It notes every violation of what must never happen, for tests to check:
an exception could be swallowed by the very code under test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from transship.agent.containers.decide import BackOff, lifecycle_of
from transship.agent.journal import transitions
from transship.agent.journal.record import OWNED, Record
from transship.agent.journal.store import Journal
from transship.agent.migration.ports import Trees
from transship.agent.migration.source.deps import Dumped, StreamOptions
from transship.agent.migration.target.deps import Restored
from transship.agentapi.migrations import Lifecycle, MemoryEndpoint, Peer
from transship.agentapi.states import RecordState
from transship.api.container import RestartPolicy
from transship.api.migration import MemoryTraffic
from transship.api.obstacle import Obstacle
from transship.api.placement import DesiredState, LastExit
from transship.common.clock import Clock
from transship.common.errors import NotFound, TransshipError
from transship.linux.pages import PAGE_BYTES
from transship.memory.copy_progress import CopyRound

SECONDS = {
    "prepare": 0.04,
    "copy": 0.04,
    "send_difference": 0.01,
    "freeze": 0.005,
    "dump": 0.03,
    "copy_round": 0.05,
    "send_memory": 0.02,
    "restore": 0.02,
    "destroy": 0.01,
    "remove": 0.01,
    "stop": 0.02,
    "start": 0.02,
}
"""How long things take; all else takes a millisecond."""


class State(StrEnum):
    RUNNING = "running"
    FROZEN = "frozen"
    HELD = "held"


@dataclass
class Copy:
    """memory: how far the program has come."""

    state: State
    memory: int


@dataclass
class Home:
    """A container's directories on a node; files: as of which progress they are."""

    files: int | None = None
    mounted: bool = False


@dataclass
class World:
    """writing: pages that the container changes in a round, at its own speed."""

    copies: dict[str, Copy] = field(default_factory=dict)
    homes: dict[str, Home] = field(default_factory=dict)
    network: dict[str, str] = field(default_factory=dict)
    unsent: dict[str, str] = field(default_factory=dict)  # who waits for whose memory
    servers: dict[str, int | None] = field(default_factory=dict)  # page servers: what they have got
    progress: int = 0  # what the program has come to, wherever it ran
    starts: int = 0  # from the image
    exits: dict[str, int] = field(default_factory=dict)  # that nobody has noted
    writing: int = 10
    slowed: dict[str, float] = field(default_factory=dict)  # by node: the share that is left
    violations: list[str] = field(default_factory=list)
    failing: dict[tuple[str, str], int] = field(default_factory=dict)  # calls to fail, per step
    on_disk: dict[str, Callable[[], Record | None]] = field(default_factory=dict)

    def fail(self, node: str, step: str, *, times: int = 1) -> None:
        """Let the next calls of this step on the node fail."""
        self.failing[node, step] = times

    def must_work(self, node: str, step: str) -> None:
        left = self.failing.get((node, step), 0)
        if left:
            self.failing[node, step] = left - 1
            raise TransshipError(f"{step} on {node} does not work", reason="Planned")

    def work(self) -> None:
        """The running program goes on, in memory and files."""
        for node, copy in self.copies.items():
            if copy.state is State.RUNNING:
                self.progress += 1
                copy.memory = self.progress
                self.homes.setdefault(node, Home()).files = self.progress

    def run(self, node: str, copy: Copy) -> None:
        """A copy gets going."""
        others = [n for n, c in self.copies.items() if c.state is State.RUNNING and n != node]
        if others:
            self.violations.append(f"{node} runs a copy, as {others} do")
        if copy.memory != self.progress:
            self.violations.append(f"{node} runs a stale copy")
        if node not in self.homes:
            self.violations.append(f"{node} runs a copy without files")
        self._must_be_allowed(node, copy)
        copy.state = State.RUNNING
        self.copies[node] = copy

    def _must_be_allowed(self, node: str, copy: Copy) -> None:
        record = self.on_disk[node]()
        state = None if record is None else record.state
        forbidden = {RecordState.RELEASED, RecordState.INCOMING, RecordState.HELD, None}
        if state in forbidden and copy.state is not State.RUNNING:
            self.violations.append(f"{node} runs a copy although its record says {state}")

    def start(self, node: str) -> None:
        """From the image."""
        present = self.copies.get(node)
        if present is not None:
            if present.state is not State.RUNNING:
                self.violations.append(f"{node} starts over a {present.state} copy")
            return
        self.starts += 1
        self.run(node, Copy(State.FROZEN, self.progress))

    def end(self, node: str, *, by: str) -> None:
        copy = self.copies.pop(node, None)
        if copy is not None and copy.state is State.RUNNING and by != "stop":
            self.violations.append(f"{by} ended a running copy on {node}")

    def exit(self, node: str, code: int) -> None:
        """The program ends by itself."""
        assert self.copies.pop(node).state is State.RUNNING
        self.exits[node] = code

    def power_cut(self, node: str) -> None:
        self.copies.pop(node, None)
        self.network.pop(node, None)
        self.servers.pop(node, None)
        self.slowed.pop(node, None)
        if node in self.homes:
            self.homes[node].mounted = False

    def running(self) -> list[str]:
        return [node for node, copy in self.copies.items() if copy.state is State.RUNNING]


class Lifetime:
    """Whether the agent still lives: what a dead one had begun ends at its next step."""

    def __init__(self, *, at_end: Callable[[], None] = lambda: None) -> None:
        self.over = False
        self._at_end = at_end

    def end(self) -> None:
        if not self.over:
            self.over = True
            self._at_end()

    def must_live(self) -> None:
        if self.over:
            raise asyncio.CancelledError


@dataclass(frozen=True)
class Place:
    """What all ports of one agent have: its node, the world, its life."""

    node: str
    world: World
    lifetime: Lifetime
    folder: Path

    async def step(self, name: str) -> None:
        self.lifetime.must_live()
        await asyncio.sleep(SECONDS.get(name, 0.001))
        self.quick_step(name)

    def quick_step(self, name: str) -> None:
        self.lifetime.must_live()
        self.world.must_work(self.node, name)

    @property
    def copy(self) -> Copy:
        found = self.world.copies.get(self.node)
        if found is None:
            raise NotFound(f"no copy on {self.node}")
        return found


def _images(at: Place) -> Path:
    return at.folder / "images"


async def _destroy(at: Place) -> None:
    await at.step("destroy")
    world, node = at.world, at.node
    record = world.on_disk[node]()
    released = record is not None and record.state is RecordState.RELEASED
    if released and world.unsent.get(node) in world.copies:
        world.violations.append(f"{node} ends a copy whose memory is wanted")
    world.end(node, by="destroy")
    world.servers.pop(node, None)


@dataclass(frozen=True)
class FakeCheckpoints:
    """The processes on the source: see migration.source.deps.Checkpoints."""

    at: Place

    async def ready(
        self, container: str, *, to: MemoryEndpoint, node: str, options: StreamOptions
    ) -> None:
        await self.at.step("ready")

    async def unready(self, container: str) -> None:
        await self.at.step("unready")

    async def freeze(self, container: str) -> None:
        await self.at.step("freeze")
        if self.at.copy.state is State.RUNNING:
            self.at.copy.state = State.FROZEN

    async def thaw(self, container: str) -> None:
        await self.at.step("thaw")
        copy = self.at.copy
        if copy.state is State.HELD:
            self.at.world.violations.append(f"{self.at.node} thawed a held copy")
        self.at.world.run(self.at.node, copy)

    async def dump(self, container: str) -> Dumped:
        await self.at.step("dump")
        copy = self.at.copy
        if copy.state is not State.FROZEN:
            raise TransshipError(f"dumping a copy that is {copy.state}")
        folder = _images(self.at)
        folder.mkdir(exist_ok=True)
        (folder / "pages").write_text(str(copy.memory))
        return Dumped(images=folder)

    async def destroy(self, container: str) -> None:
        await _destroy(self.at)

    def mapped(self, container: str) -> frozenset[str]:
        return frozenset()


@dataclass(frozen=True)
class FakeMemoryTransfer:
    """The memory on its way: see migration.source.deps.MemoryTransfer."""

    at: Place

    async def reserve(self, container: str) -> int:
        await self.at.step("announce_memory")
        return 1000

    async def copy_shared(self, container: str) -> None:
        self.at.quick_step("copy_shared")

    async def copy_round(self, container: str) -> CopyRound:
        """1,000 pages at first, at 1,000 pages in 50 ms."""
        await self.at.step("copy_round")
        size = 1000 * PAGE_BYTES
        left = await self.remaining_pages(container)
        return CopyRound(
            pages=1000, bytes=size, content_bytes=size, seconds=0.05, rate=size / 0.05,
            remaining_pages=left,
        )  # fmt: skip

    async def remaining_pages(self, container: str) -> int | None:
        world = self.at.world
        return round(world.writing * world.slowed.get(self.at.node, 1.0))

    def begin_sending(self, container: str) -> None:
        pass

    async def send(self, container: str) -> MemoryTraffic:
        await self.at.step("send_memory")
        copy, servers = self.at.copy, self.at.world.servers
        if copy.state is not State.FROZEN:
            self.at.world.violations.append(f"{self.at.node} sends memory that is {copy.state}")
        waiting = [node for node in servers if node != self.at.node]
        if not waiting:
            raise TransshipError("no page server listens")
        servers[waiting[0]] = copy.memory
        return MemoryTraffic(page_bytes=100, wire_bytes=100)

    async def begin_postcopy(self, container: str) -> MemoryTraffic:
        """What of it follows is an event of its own: until then nobody may end this copy."""
        traffic = await self.send(container)
        [target] = [node for node in self.at.world.servers if node != self.at.node]
        self.at.world.unsent[self.at.node] = target
        return traffic

    async def push(self, container: str, *, to: MemoryEndpoint, node: str) -> MemoryTraffic:
        await self.at.step("push_memory")
        if self.at.copy.state is not State.FROZEN:
            self.at.world.violations.append(f"{self.at.node} pushes memory that is not frozen")
        self.at.world.unsent.pop(self.at.node, None)
        return MemoryTraffic(page_bytes=100, wire_bytes=100)

    def sent_bytes(self, container: str) -> int:
        return 0


@dataclass(frozen=True)
class FakeRestores:
    """The processes and the memory on the target: see migration.target.deps.Restores."""

    at: Place

    def images(self, container: str) -> Path:
        return _images(self.at)

    async def receive(self, container: str, *, node: str) -> MemoryEndpoint:
        await self.at.step("receive")
        self.at.world.servers[self.at.node] = None
        self.images(container).mkdir(exist_ok=True)
        return MemoryEndpoint(address=self.at.node, port=1)

    async def restore(self, container: str, *, timeout_seconds: float) -> Restored:
        await self.at.step("restore")
        world, node = self.at.world, self.at.node
        memory = int((self.images(container) / "pages").read_text())
        if node in world.copies:
            world.violations.append(f"{node} restores over a copy")
        if not world.homes[node].mounted or world.homes[node].files != memory:
            world.violations.append(f"{node} restores with wrong files")
        world.copies[node] = Copy(State.HELD, memory)
        return Restored(pid=1)

    async def received(
        self, container: str, *, follows: bool = False, timeout_seconds: float
    ) -> None:
        await self.at.step("received")
        servers, node = self.at.world.servers, self.at.node
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while servers.get(node) is None:
            if node not in servers or asyncio.get_running_loop().time() > deadline:
                raise TransshipError("pages are missing")
            await asyncio.sleep(0.003)
        servers.pop(node)

    async def resume(self, container: str) -> None:
        await self.at.step("resume")
        if self.at.copy.state is not State.RUNNING:
            self.at.world.run(self.at.node, self.at.copy)

    async def settle(self, container: str) -> None:
        await self.at.step("settle")

    async def lacks_memory(self, container: str) -> bool:
        return self.awaits_memory(container)

    async def lose_memory(self, container: str) -> None:
        if self.awaits_memory(container):
            self.at.world.unsent.clear()  # its page server ends with it
            self.at.world.end(self.at.node, by="stop")

    def awaits_memory(self, container: str) -> bool:
        return self.at.node in self.at.world.unsent.values()

    async def destroy(self, container: str) -> None:
        await _destroy(self.at)


@dataclass(frozen=True)
class FakeCpuThrottle:
    at: Place

    async def slow(self, container: str, share: float) -> None:
        await self.at.step("slow")
        self.at.world.slowed[self.at.node] = share

    def release(self, container: str) -> None:
        self.at.quick_step("throttle_release")
        self.at.world.slowed.pop(self.at.node, None)

    def release_all(self) -> None:
        self.at.world.slowed.pop(self.at.node, None)


@dataclass(frozen=True)
class FakeBundles:
    at: Place

    async def prepare(self, record: Record) -> str:
        await self.at.step("prepare")
        if self.at.node in self.at.world.copies:
            self.at.world.violations.append(f"{self.at.node} prepares over a copy")
        self.at.world.homes.setdefault(self.at.node, Home())
        return "sha256:" + "0" * 64

    async def mount(self, container: str) -> None:
        await self.at.step("mount")
        self.at.world.homes[self.at.node].mounted = True

    async def remove(self, container: str) -> None:
        await self.at.step("remove")
        self.at.world.end(self.at.node, by="remove")
        self.at.world.homes.pop(self.at.node, None)

    def home(self, container: str) -> Path:
        return self.at.folder / "home"

    def trees(self, record: Record) -> Trees:
        self.at.quick_step("trees")
        return Trees(names=())

    def mapped(self, record: Record, paths: frozenset[str]) -> frozenset[str]:
        return frozenset()


@dataclass(frozen=True)
class FakeMigrationNetwork:
    """The states are those of the table in network.container_network."""

    at: Place

    def _set(self, step: str, state: str, *, makes: bool = False) -> None:
        self.at.quick_step(step)
        if not makes and self.at.world.network.get(self.at.node, "away") == "away":
            raise NotFound("the container has no network here")
        self.at.world.network[self.at.node] = state

    def create(self, record: Record) -> None:
        present = self.at.world.network.get(self.at.node, "away")
        self._set("create_network", "created" if present == "away" else present, makes=True)

    def hold(self, record: Record) -> None:
        self._set("hold", "held")

    def release(self, record: Record) -> None:
        self._set("release", "serving")

    def divert(self, record: Record, *, via: Peer) -> None:
        self._set("divert", "diverted")

    async def await_reads(self, record: Record) -> None:
        await self.at.step("await_reads")

    def block(self, record: Record) -> None:
        self.at.quick_step("block")

    def undivert(self, record: Record) -> None:
        self._set("undivert", "serving")

    def return_packets(self, record: Record) -> None:
        self._set("return_packets", "returning")

    def forward(self, record: Record, *, via: Peer) -> None:
        self._set("forward_packets", "away", makes=True)

    def remove(self, record: Record) -> None:
        self.at.quick_step("remove_network")
        self.at.world.network.pop(self.at.node, None)


@dataclass
class FakeResidents:
    """A supervisor as far as a migration meets it: it thaws, attaches and starts what is ours."""

    at: Place
    journal: Journal
    clock: Clock
    cared_for: bool = False
    attached: bool = False
    quiet: bool = False
    obstacles: tuple[Obstacle, ...] = ()
    supervising: asyncio.Task[None] | None = None
    waiting_seconds: float = 0.0  # of a back-off; a test lets them pass

    def begin(self) -> None:
        if any(record.state in OWNED for record in self.journal.all()):
            self.cared_for = True
            self._supervise()

    def adopt(self, record: Record, *, pid: int | None, lifecycle: Lifecycle | None) -> None:
        self.waiting_seconds = 0.0 if lifecycle is None else lifecycle.waiting_seconds
        self.readopt(record.id)

    async def wait_for_step(self, container: str) -> int | None:
        self.at.lifetime.must_live()
        self._note_exit(container)
        return self.instance(container)

    def instance(self, container: str) -> int | None:
        copy = self.at.world.copies.get(self.at.node)
        return None if copy is None else id(copy)

    async def record_exit(self, container: str) -> bool:
        self.at.lifetime.must_live()
        return self._note_exit(container)

    def _note_exit(self, container: str) -> bool:
        code, record = self.at.world.exits.pop(self.at.node, None), self.journal.get(container)
        if code is None or record is None:
            return False
        last = LastExit(exit_code=code, time=self.clock.now())
        again = record.order.container.restart_policy is RestartPolicy.ALWAYS
        self.journal.put((transitions.restarting if again else transitions.ended)(record, last))
        return True

    def lifecycle(self, container: str) -> Lifecycle:
        record = self.journal.get(container)
        assert record is not None
        back_off = BackOff(next_seconds=20.0, until=self.waiting_seconds)
        return lifecycle_of(record, back_off, at=0.0)

    def disown(self, container: str) -> None:
        self.at.lifetime.must_live()
        self.cared_for = False

    async def find_obstacles(self, container: str) -> tuple[Obstacle, ...]:
        return self.obstacles

    async def pause_probes(self, container: str) -> None:
        await self.at.step("pause_probes")
        self.quiet = True

    def readopt(self, container: str) -> None:
        self.at.lifetime.must_live()
        self.cared_for = self.attached = True
        self.quiet = False
        self._supervise()

    async def start(self, record: Record) -> None:
        if record.order.state is not DesiredState.STOPPED:
            await self.at.step("start")
            self._create()
            present = self.journal.get(record.id)
            assert present is not None
            started = transitions.started(present, boot=self.journal.boot, now=self.clock.now())
            self.journal.put(started)
        self.readopt(record.id)

    async def stop(self, container: str) -> None:
        await self.at.step("stop")
        self.at.world.end(self.at.node, by="stop")

    def _create(self) -> None:
        self.at.world.homes.setdefault(self.at.node, Home()).mounted = True
        self.at.world.network[self.at.node] = "serving"
        self.at.world.start(self.at.node)

    def _supervise(self) -> None:
        if self.supervising is None or self.supervising.done():
            self.supervising = asyncio.create_task(self._mend())

    async def _mend(self) -> None:
        """One pass after a while, as a real supervisor makes one every 15 s."""
        await self.at.step("supervise")
        for record in self.journal.all():
            if self.cared_for and record.state in OWNED:
                self._mend_one(record)

    def _mend_one(self, record: Record) -> None:
        world, node = self.at.world, self.at.node
        copy = world.copies.get(node)
        if copy is not None and copy.state is not State.RUNNING:
            world.run(node, copy)
        self._note_exit(record.id)
        record = self.journal.get(record.id) or record
        wanted = record.state is RecordState.RUNNING and record.ordered_boot == self.journal.boot
        wanted = wanted and not self.waiting_seconds
        if copy is None and wanted:
            if record.started_boot:
                world.violations.append(f"{node} takes the container for lost")
            self._create()
        if not self.attached and node in world.copies:
            world.network[node] = "serving"
            self.attached = True
