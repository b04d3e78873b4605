"""Two agents with their roles, journals and one container, under a clock that the test moves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

from fakes.agent_loop import LoopClock, VirtualLoop, owned
from fakes.agent_peers import FakePeers, Listener, Network
from fakes.agent_world import (
    Copy,
    FakeBundles,
    FakeCheckpoints,
    FakeCpuThrottle,
    FakeMemoryTransfer,
    FakeMigrationNetwork,
    FakeResidents,
    FakeRestores,
    Home,
    Lifetime,
    Place,
    State,
    World,
)
from fakes.orders import ID, order
from transship.agent.journal import transitions
from transship.agent.journal.record import OWNED, Record
from transship.agent.journal.store import Journal, JournalError
from transship.agent.migration.handover_queue import HandoverQueue
from transship.agent.migration.source.handover_stats import HandoverStats
from transship.agent.migration.source.source import Source, SourceDeps
from transship.agent.migration.target.target import Target, TargetDeps
from transship.agentapi.migrations import IncomingOrder, OutgoingOrder, Peer, VerdictNotice
from transship.agentapi.states import RecordState, SideState, Verdict
from transship.api.container import RestartPolicy
from transship.api.placement import DesiredState, MigrationSettings, Strategy
from transship.common.durable_files import Durability
from transship.common.errors import NotFound, Refused, TransshipError

T = TypeVar("T")

LONG_SECONDS = 30.0
"""Enough for everything that does not wait for somebody else."""


class Disk(Enum):
    WORKS = "works"
    FULL = "full"  # nothing gets written
    LIES = "lies"  # everything gets written, and reported as failed


class FragileJournal(Journal):
    """The real one, on a disk that can fail, of an agent that can be killed at any write."""

    def __init__(self, folder: Path, *, boot: str, clock: LoopClock, life: Lifetime) -> None:
        super().__init__(folder, boot=boot, clock=clock)
        self.disk = Disk.WORKS
        self.killed_before: RecordState | None = None
        self.killed_after: RecordState | None = None
        self.full_for: RecordState | None = None
        self.lies_for: RecordState | None = None
        self._life = life

    def _store(self, record: Record, durability: Durability) -> None:
        self._life.must_live()
        if record.state is self.killed_before:
            self._life.end()
            self._life.must_live()
        if self.disk is Disk.FULL or record.state is self.full_for:
            raise JournalError("the disk is full")
        super()._store(record, durability)
        if self.disk is Disk.LIES or record.state is self.lies_for:
            raise JournalError("the disk says that it failed")
        if record.state is self.killed_after:
            self._life.end()
            self._life.must_live()

    def mend(self) -> None:
        """The disk works again."""
        self.disk, self.full_for, self.lies_for = Disk.WORKS, None, None

    def remove(self, container_id: str, *, floor: int | None = None) -> None:
        self._life.must_live()
        super().remove(container_id, floor=floor)


async def nobody_probes(container: str) -> None:
    """See agent.migration.prediction."""


class Agent:
    """One life of an agent: what it holds in memory ends with it."""

    def __init__(self, node: Node) -> None:
        self.life = Lifetime(at_end=lambda: self._end(node))
        self.tasks: set[asyncio.Task[Any]] = set()
        self._loop = node.pair.loop
        clock, world = LoopClock(self._loop), node.pair.world
        at = Place(node.name, world, self.life, node.folder)
        self.journal = FragileJournal(
            node.folder / "journal", boot=node.boot, clock=clock, life=self.life
        )
        self.residents = FakeResidents(at, self.journal, clock)
        peers: Any = FakePeers(node.pair.network, must_live=self.life.must_live)
        self.handover_queue, self.cpu_throttle = HandoverQueue(), FakeCpuThrottle(at)
        bundles, network = FakeBundles(at), FakeMigrationNetwork(at)
        self.source = Source(
            SourceDeps(
                journal=self.journal,
                checkpoints=FakeCheckpoints(at),
                memory=FakeMemoryTransfer(at),
                bundles=bundles,
                network=network,
                residents=self.residents,
                peers=peers,
                clock=clock,
                streams=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                cpu_throttle=self.cpu_throttle,
                handover_queue=self.handover_queue,
                handover_stats=HandoverStats(),
                end_probe=nobody_probes,
            )
        )
        self.target = Target(
            TargetDeps(
                journal=self.journal,
                restores=FakeRestores(at),
                bundles=bundles,
                network=network,
                residents=self.residents,
                peers=peers,
                clock=clock,
                vacate=self.source.vacate,
            )
        )

    async def start(self) -> None:
        """As app.Agent does it."""
        self.journal.load()
        self.cpu_throttle.release_all()
        await self.source.recover()
        await self.target.recover()
        self.residents.begin()

    def serve(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return owned(self._loop, work, by=self.tasks)

    def _end(self, node: Node) -> None:
        node.agent = None
        del node.pair.network.listeners[node.name]
        for task in tuple(self.tasks):
            task.cancel()


class Node:
    """What outlives an agent: its disk and its boot."""

    def __init__(self, name: str, *, pair: Pair) -> None:
        self.name, self.pair = name, pair
        self.folder = pair.folder / name
        self.folder.mkdir()
        self.boots = 1
        self.agent: Agent | None = None
        pair.world.on_disk[name] = self.on_disk

    @property
    def boot(self) -> str:
        return f"{self.name}-boot-{self.boots}"

    @property
    def live(self) -> Agent:
        assert self.agent is not None, f"the agent of {self.name} is down"
        return self.agent

    @property
    def record(self) -> Record | None:
        return self.live.journal.get(ID)

    @property
    def state(self) -> RecordState | None:
        return None if self.record is None else self.record.state

    def on_disk(self) -> Record | None:
        journal = Journal(self.folder / "journal", boot=self.boot)
        journal.load()
        return journal.get(ID)

    def peer(self) -> Peer:
        return Peer(node=self.name, address=f"10.0.0.{ord(self.name[-1])}", endpoint="https://x")

    def up(self) -> None:
        if self.agent is None:
            self.agent = Agent(self)
            self.pair.network.listeners[self.name] = self.agent
            starting = self.agent.serve(self.agent.start())
            starting.add_done_callback(self._note_start)
            self.pair.loop.pass_time()

    def _note_start(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.pair.world.violations.append(f"{self.name} cannot start: {error!r}")

    def ask_to_end(self) -> None:
        """SIGTERM, as app.Agent does it; then what still runs is cancelled, as by asyncio.run."""
        agent = self.live
        self.pair.call(agent.source.close(), on=self)
        self.pair.world.fail(self.name, "undivert", times=1000)  # its network is closed
        for task in tuple(agent.tasks):
            task.cancel()
        self.pair.pass_time(1.0)
        self.pair.world.failing.clear()
        self.down()

    def down(self) -> None:
        """The agent is killed; containers stay as they are."""
        if self.agent is not None:
            self.agent.life.end()
            self.pair.loop.pass_time()

    def restart(self) -> None:
        self.down()
        self.up()

    def power_cut(self) -> None:
        self.down()
        self.pair.world.power_cut(self.name)
        self.boots += 1


class Pair:
    """node-a runs the container at first."""

    def __init__(self, folder: Path, *, refuses_landlock: bool = True) -> None:
        self.folder = folder
        self.refuses_landlock = refuses_landlock
        self.loop = VirtualLoop()
        self.world, self.network = World(), Network()
        self.a, self.b = Node("node-a", pair=self), Node("node-b", pair=self)
        self.strategy = Strategy.STOP_AND_COPY
        self.policy = RestartPolicy.ALWAYS
        self.settings = MigrationSettings()
        self.ready: dict[FakeFileCopy, Agent | None] = {}  # and not closed, of this agent
        self._patches = pytest.MonkeyPatch()
        self._place_container()

    def __enter__(self) -> Self:
        self._patches.setattr(
            "transship.agent.migration.source.preparation.FileCopy", FakeFileCopy.for_pair(self)
        )
        self._patches.setattr("transship.common.durable_files.os.fsync", lambda _: None)
        self.a.up()
        self.b.up()
        self.pass_time(0.01)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in (self.a, self.b):
            node.down()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.pass_time(1.0)
        self.loop.close()
        self._patches.undo()

    # The operator.

    def call(self, work: Coroutine[Any, Any, T], *, on: Node, seconds: float = LONG_SECONDS) -> T:
        """An order to an agent, and its answer."""
        task = on.live.serve(work)
        self.loop.pass_time()
        if not task.done():
            self.pass_time(seconds)
        assert task.done(), "the agent did not answer"
        return task.result()

    def background(self, task: asyncio.Task[Any]) -> None:
        """An order whose answer nobody waits for."""
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.loop.pass_time()

    def incoming(self, migration: str, *, source: Node, epoch: int) -> IncomingOrder:
        return IncomingOrder(
            migration=migration,
            order=order(epoch=epoch + 1, policy=self.policy),
            source=source.peer(),
            strategy=self.strategy,
        )

    def outgoing(self, migration: str, *, target: Node, epoch: int) -> OutgoingOrder:
        return OutgoingOrder(
            migration=migration,
            container=ID,
            epoch=epoch,
            target=target.peer(),
            strategy=self.strategy,
            settings=self.settings,
        )

    def prepare(self, migration: str = "m-1", *, epoch: int = 1) -> None:
        source, target = self.sides(epoch)
        wanted = self.incoming(migration, source=source, epoch=epoch)
        self.call(target.live.target.begin(wanted), on=target)
        self.pass_time(0.2)

    def begin(self, migration: str = "m-1", *, epoch: int = 1) -> None:
        source, target = self.sides(epoch)
        wanted = self.outgoing(migration, target=target, epoch=epoch)
        self.call(source.live.source.begin(wanted), on=source)

    def order_incoming(self, migration: str, *, epoch: int) -> None:
        """Nobody waits for the answer."""
        source, target = self.sides(epoch)
        if target.agent is not None:
            wanted = self.incoming(migration, source=source, epoch=epoch)
            self.background(target.live.serve(target.live.target.begin(wanted)))

    def order_outgoing(self, migration: str, *, epoch: int) -> None:
        source, target = self.sides(epoch)
        if source.agent is not None:
            wanted = self.outgoing(migration, target=target, epoch=epoch)
            self.background(source.live.serve(source.live.source.begin(wanted)))

    def move(self, migration: str = "m-1", *, epoch: int = 1) -> None:
        """From order to order, then wait."""
        self.prepare(migration, epoch=epoch)
        self.begin(migration, epoch=epoch)
        self.pass_time(LONG_SECONDS)

    def relay(self, verdict: Verdict, migration: str = "m-1", *, epoch: int = 1) -> SideState:
        _, target = self.sides(epoch)
        due = epoch if verdict is Verdict.ABORTED else epoch + 1
        notice = VerdictNotice(migration=migration, verdict=verdict, epoch=due)
        return self.call(target.live.target.decide(notice), on=target).state

    def abort_source(self, migration: str = "m-1", *, epoch: int = 1) -> Verdict:
        source, _ = self.sides(epoch)
        return self.call(source.live.source.abort(migration, container=ID), on=source).verdict

    def abort_target(self, migration: str = "m-1", *, epoch: int = 1) -> SideState:
        _, target = self.sides(epoch)
        return self.call(target.live.target.abort(migration), on=target).state

    def forget(self, migration: str = "m-1", *, epoch: int = 1) -> None:
        source, target = self.sides(epoch)
        self.call(source.live.source.forget(migration), on=source)
        self.call(target.live.target.forget(migration), on=target)

    def settle(self) -> None:
        """All faults end; agents, then the operator, bring things to their end."""
        self.world.failing.clear()
        self.network.heal()
        for node in (self.a, self.b):
            if node.agent is not None:
                node.agent.journal.mend()
            node.up()
        self.pass_time(60.0)
        for _ in range(3):
            self.tidy()
            self.pass_time(20.0)
        assert self.loop.unheard() == []

    def tidy(self) -> None:
        """What an operator does after all is over: as controller.placement.decide's Tidy."""
        for node in (self.a, self.b):
            record = node.record
            if record is not None and record.migration is not None:
                with suppress(Refused, NotFound):
                    self._tidy(node, record, record.migration)

    def _tidy(self, node: Node, record: Record, migration: str) -> None:
        source, target = node.live.source, node.live.target
        if record.state in {RecordState.INCOMING, RecordState.HELD}:
            self.call(target.abort(migration), on=node)
            self.call(target.forget(migration), on=node)
        elif record.state is RecordState.RELEASED:
            self.call(source.forget(migration), on=node)
        else:
            self.call(source.abort(migration, container=ID), on=node)
            self.call(source.forget(migration), on=node)

    # Observation.

    def sides(self, epoch: int) -> tuple[Node, Node]:
        """Odd epochs are node-a's."""
        return (self.a, self.b) if epoch % 2 else (self.b, self.a)

    def pass_time(self, seconds: float) -> None:
        """Time passes for everybody, and the program runs meanwhile."""
        for _ in range(10):
            self.world.work()
            self.loop.pass_time(seconds / 10)
        assert self.world.violations == []

    def until(self, what: object, *, equals: object, seconds: float = LONG_SECONDS) -> None:
        """Let time pass in small steps until `what()` has this value."""
        assert callable(what)
        for _ in range(int(seconds * 1000)):
            if what() == equals:
                return
            self.loop.pass_time(0.001)
        raise AssertionError(f"still {what()}, not {equals}")

    def source_state(self, migration: str = "m-1", *, epoch: int = 1) -> SideState | None:
        report = self.sides(epoch)[0].live.source.report(migration)
        return None if report is None else report.state

    def target_state(self, migration: str = "m-1", *, epoch: int = 1) -> SideState | None:
        report = self.sides(epoch)[1].live.target.report(migration)
        return None if report is None else report.state

    def assert_settled(self) -> Node:
        """It lives on one of the two, with an epoch that tells which."""
        assert len(self.world.running()) == 1
        node = self.a if self.world.running() == [self.a.name] else self.b
        assert node.record is not None
        assert self.sides(node.record.epoch)[0] is node
        self.assert_lives_on(node, epoch=node.record.epoch)
        return node

    def assert_lives_on(self, node: Node, *, epoch: int) -> None:
        """Exactly one copy, and its node alone has anything of it."""
        other = self.b if node is self.a else self.a
        world = self.world
        assert world.violations == []
        assert world.running() == [node.name]
        record = node.record
        assert record is not None
        assert (record.state, record.epoch, record.migration) == (RecordState.RUNNING, epoch, None)
        assert world.network[node.name] == "serving"
        assert other.name not in world.copies
        assert other.name not in world.homes
        assert world.servers == {}
        assert not [agent for agent in self.ready.values() if agent in (self.a.agent, self.b.agent)]
        assert world.network.get(other.name, "away") == "away"

    def _place_container(self) -> None:
        name, boot = self.a.name, self.a.boot
        journal = Journal(self.a.folder / "journal", boot=boot, clock=LoopClock(self.loop))
        journal.load()
        first = transitions.ordered(None, order(state=DesiredState.RUNNING), boot=boot)
        journal.put(first.but(started_boot=boot, refuses_landlock=self.refuses_landlock))
        self.world.homes[name] = Home(files=0, mounted=True)
        self.world.copies[name] = Copy(State.RUNNING, 0)
        self.world.network[name] = "serving"


class FakeFileCopy:
    """filecopy.FileCopy, by messages: put in its place with `for_pair`."""

    pair: Pair

    def __init__(
        self, home: Path, trees: object, *, peer: Peer, migration: str, context: object,
        mapped: object, bandwidth: object = None,
    ) -> None:  # fmt: skip
        self._from = home.parent.name
        self._peer, self._migration = peer, migration
        self.bytes = 0

    @classmethod
    def for_pair(cls, pair: Pair) -> type[FakeFileCopy]:
        return type("FakeFileCopyOfPair", (cls,), {"pair": pair})

    async def copy(self) -> None:
        await self._send("copy")

    async def catch_up(self) -> None:
        self._must_live()

    async def make_ready(self) -> None:
        self._must_live()
        self.pair.ready[self] = self._node.agent

    def begin_snapshot(self) -> None:
        self._must_live()

    async def send_difference(self, *, has_new_files: bool = False) -> None:
        await self._send("send_difference")

    async def close(self) -> None:
        self._must_live()
        self.pair.ready.pop(self, None)

    @property
    def _node(self) -> Node:
        return self.pair.a if self._from == self.pair.a.name else self.pair.b

    def _must_live(self) -> None:
        if self._node.agent is None:
            raise asyncio.CancelledError

    async def _send(self, step: str) -> None:
        self._must_live()
        world = self.pair.world
        at = Place(self._from, world, Lifetime(), self.pair.folder)
        await at.step(step)
        self._must_live()
        files = world.homes[self._from].files

        async def receive(agent: Listener) -> None:
            report = agent.target.report(self._migration)
            if report is None or report.state is not SideState.PREPARED:
                raise TransshipError(f"files for {None if report is None else report.state}")
            world.homes[self._peer.node].files = files
            self.bytes += 10

        await self.pair.network.call(self._peer.node, "files", receive)


__all__ = ["OWNED", "Disk", "FakeFileCopy", "Node", "Pair"]
