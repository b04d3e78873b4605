"""Any interleaving of orders, lost messages, failing steps and kills: never two, never none."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from loguru import logger

from fakes.agent_pair import Disk, Node, Pair
from fakes.orders import ID
from transship.agent.journal.record import OWNED
from transship.agentapi.migrations import VerdictNotice
from transship.agentapi.states import RecordState, Verdict
from transship.api.placement import Strategy
from transship.common.errors import TransshipError

MESSAGES = st.sampled_from(["files", "memory", "hold", "restore", "decide", "verdict"])
STEPS = st.sampled_from(
    [
        "prepare", "create_network", "receive", "hold", "received", "mount", "restore", "resume",
        "release", "copy", "ready", "pause_probes", "freeze", "divert", "dump", "send_difference",
        "copy_round", "slow", "throttle_release", "undivert", "thaw", "unready", "destroy",
        "remove", "remove_network", "forward_packets", "settle",
    ]
)  # fmt: skip
NODES = st.sampled_from([0, 1])
STRATEGIES = [Strategy.STOP_AND_COPY, Strategy.AUTO, Strategy.POST_COPY, Strategy.COLD]


class Handovers(RuleBasedStateMachine):
    """An operator that forgets what it has ordered, and a bad day."""

    def __init__(self) -> None:
        super().__init__()
        logger.disable("transship")
        self._folder = tempfile.TemporaryDirectory()
        self.pair = Pair(Path(self._folder.name)).__enter__()
        self.epoch = 1  # of the owner, as far as the operator knows
        self.count = 1
        self.verdicts: dict[str, VerdictNotice] = {}
        self.power_was_lost = False

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        writing=st.sampled_from([10, 10_000, 10_000_000]),
    )
    def choose(self, strategy: Strategy, writing: int) -> None:
        """Auto slows down a container that writes much, and gives up on one that writes more."""
        self.pair.strategy = strategy
        self.pair.world.writing = writing

    @property
    def migration(self) -> str:
        return f"m-{self.count}"

    def node(self, number: int) -> Node:
        return (self.pair.a, self.pair.b)[number]

    def send(self, node: Node, work: Coroutine[Any, Any, object]) -> None:
        self.pair.background(node.live.serve(work))

    # The operator.

    @rule(milliseconds=st.integers(1, 250))
    def move(self, milliseconds: int) -> None:
        """The usual way, from the owner that the agents tell of."""
        self._find_owner()
        self.pair.order_incoming(self.migration, epoch=self.epoch)
        self.wait_a_little(100)
        self.pair.order_outgoing(self.migration, epoch=self.epoch)
        self.wait_a_little(milliseconds)

    @rule(side=st.sampled_from(["source", "target"]))
    def repeat_an_order(self, side: str) -> None:
        if side == "source":
            self.pair.order_outgoing(self.migration, epoch=self.epoch)
        else:
            self.pair.order_incoming(self.migration, epoch=self.epoch)

    @rule(side=st.sampled_from(["source", "target"]))
    def cancel(self, side: str) -> None:
        source, target = self.pair.sides(self.epoch)
        if side == "source" and source.agent is not None:
            self.send(source, source.live.source.abort(self.migration, container=ID))
        if side == "target" and target.agent is not None:
            self.send(target, target.live.target.abort(self.migration))

    @rule(number=NODES, earlier=st.integers(0, 2))
    def relay(self, number: int, earlier: int) -> None:
        """A verdict never changes, and may come to anybody at any time."""
        source, _ = self.pair.sides(self.epoch)
        migration = f"m-{self.count - earlier}"
        if source.agent is not None:
            reply = source.live.source.verdict(migration)
            if reply.verdict in {Verdict.RELEASED, Verdict.ABORTED}:
                self.verdicts[migration] = VerdictNotice(
                    migration=migration, verdict=reply.verdict, epoch=reply.epoch
                )
        for notice in self.verdicts.values():
            if self.node(number).agent is not None:
                self.send(self.node(number), self.node(number).live.target.decide(notice))

    @rule(number=NODES)
    def forget(self, number: int) -> None:
        """What is over; a release not before somebody owns the container by it."""
        node, other = self.node(number), self.node(1 - number)
        if node.agent is None or other.agent is None:
            return
        self.send(node, node.live.target.forget(self.migration))
        record, successor = node.record, other.record
        if record is not None and record.state is RecordState.RELEASED:
            arrived = successor is not None and successor.state in OWNED
            if arrived and record.migration is not None:
                self.send(node, node.live.source.forget(record.migration))
        else:
            self.send(node, node.live.source.forget(self.migration))

    def _find_owner(self) -> None:
        for node in (self.pair.a, self.pair.b):
            record = None if node.agent is None else node.record
            if record is not None and record.state in OWNED and record.epoch >= self.epoch:
                self.epoch = record.epoch
                self.count += 1

    # The bad day.

    @rule(message=MESSAGES, fault=st.sampled_from(["request", "reply", "twice", 0.01, 0.1, 8.0]))
    def disturb_a_message(self, message: str, fault: str | float) -> None:
        network = self.pair.network
        match fault:
            case "request":
                network.lost_requests.append(message)
            case "reply":
                network.lost_replies.append(message)
            case "twice":
                network.repeated.append(message)
            case _:
                network.late_seconds[message] = float(fault)

    @rule(number=NODES, step=STEPS)
    def let_a_step_fail(self, number: int, step: str) -> None:
        self.pair.world.fail(self.node(number).name, step)

    @rule(number=NODES, fault=st.sampled_from(["kill", "kill", "link", "power", *Disk]))
    def break_something(self, number: int, fault: str | Disk) -> None:
        node = self.node(number)
        match fault:
            case "kill":
                node.down()
            case "link":
                self.pair.network.cut = True
            case "power":
                node.power_cut()
                self.power_was_lost = True
            case Disk() if node.agent is not None:
                node.live.journal.disk = fault

    @rule(number=NODES)
    def mend(self, number: int) -> None:
        self.pair.network.cut = False
        self.node(number).up()
        self.node(number).live.journal.mend()

    @rule(milliseconds=st.integers(1, 40))
    def wait_a_little(self, milliseconds: int) -> None:
        self.pair.world.work()
        self.pair.loop.pass_time(milliseconds / 1000)

    @rule(seconds=st.sampled_from([0.3, 8.0]))
    def wait(self, seconds: float) -> None:
        self.pair.world.work()
        self.pair.loop.pass_time(seconds)

    @invariant()
    def nothing_has_happened_that_must_not(self) -> None:
        assert self.pair.world.violations == []
        assert len(self.pair.world.running()) <= 1

    def settle_and_check(self) -> None:
        self.pair.settle()
        owner = self.owner()
        assert owner.record is not None
        event(f"epoch {owner.record.epoch}")
        self.pair.pass_time(5.0)  # what an abort could not give back at once
        assert self.pair.world.slowed == {}
        for each in (self.pair.a, self.pair.b):
            place = each.live.handover_queue.enter()
            assert place.has_turn
            place.leave()
        for each in (self.pair.a, self.pair.b):
            each.restart()
        self.pair.settle()
        assert self.owner() is owner
        # one that a power cut has ended is moved without memory, and started on the target
        if self.pair.strategy is not Strategy.COLD and not self.power_was_lost:
            assert self.pair.world.starts == 0

    def owner(self) -> Node:
        """A container whose node lost power waits there for the operator's order."""
        if not self.power_was_lost or self.pair.world.running():
            return self.pair.assert_settled()
        assert self.pair.world.copies == {}
        (owner,) = (n for n in (self.pair.a, self.pair.b) if n.record is not None)
        assert owner.state is RecordState.RUNNING
        return owner

    def teardown(self) -> None:
        try:
            self.settle_and_check()
        finally:
            with suppress(TransshipError, asyncio.CancelledError):
                self.pair.__exit__(None, None, None)
            self._folder.cleanup()
            logger.enable("transship")


TestHandovers = Handovers.TestCase
TestHandovers.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
