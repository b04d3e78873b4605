"""Any interleaving of orders, lost messages, failing steps and killed agents: never two, never none."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from fakes.agent_pair import Disk, Node, Pair
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from loguru import logger

from transship.agent.records import OWNED
from transship.api.placement import Strategy
from transship.common.errors import TransshipError
from transship.protocol.migrations import VerdictNotice
from transship.protocol.states import RecordState, Verdict

MESSAGES = st.sampled_from(["files", "memory", "hold", "restore", "decide", "verdict"])
STEPS = st.sampled_from(
    [
        "prepare", "create_held", "receive", "hold", "received", "mount", "restore", "resume",
        "release", "copy", "ready", "quieten", "freeze", "divert", "dump", "send_difference",
        "undivert", "thaw", "unready", "destroy", "remove", "remove_wires", "leave", "settle",
    ]
)  # fmt: skip
NODES = st.sampled_from([0, 1])


class Handovers(RuleBasedStateMachine):
    """An operator that forgets what it has ordered, and a bad day."""

    def __init__(self) -> None:
        super().__init__()
        logger.disable("transship")
        self._folder = tempfile.TemporaryDirectory()
        self.pair = Pair(Path(self._folder.name)).__enter__()
        self.epoch = 1  # of the owner, as far as the operator knows
        self.count = 1
        self.said: dict[str, VerdictNotice] = {}
        self.power_was_lost = False

    @initialize(strategy=st.sampled_from([Strategy.STOP_AND_COPY, Strategy.COLD]))
    def choose(self, strategy: Strategy) -> None:
        self.pair.strategy = strategy

    @property
    def migration(self) -> str:
        return f"m-{self.count}"

    def node(self, number: int) -> Node:
        return (self.pair.a, self.pair.b)[number]

    def send(self, node: Node, work: Coroutine[Any, Any, object]) -> None:
        self.pair.background(node.live.serve(work))

    # The operator.

    @rule()
    def order_the_target(self) -> None:
        self.pair.order_incoming(self.migration, epoch=self.epoch)

    @rule()
    def order_the_source(self) -> None:
        self.pair.order_outgoing(self.migration, epoch=self.epoch)

    @rule()
    def order_all(self) -> None:
        """The usual way, so that most runs get far."""
        self.pair.order_incoming(self.migration, epoch=self.epoch)
        self.pair.loop.pass_time(0.1)
        self.pair.order_outgoing(self.migration, epoch=self.epoch)
        self.pair.loop.pass_time(0.05)

    @rule()
    def try_again(self) -> None:
        """The next migration starts from the owner that the agents tell of."""
        for node in (self.pair.a, self.pair.b):
            record = None if node.agent is None else node.record
            if record is not None and record.state in OWNED and record.epoch >= self.epoch:
                self.epoch = record.epoch
                self.count += 1

    @rule()
    def cancel(self) -> None:
        source, _ = self.pair.sides(self.epoch)
        if source.agent is not None:
            self.send(source, source.live.source.abort(self.migration))

    @rule()
    def cancel_at_the_target(self) -> None:
        _, target = self.pair.sides(self.epoch)
        if target.agent is not None:
            self.send(target, target.live.target.abort(self.migration))

    @rule(earlier=st.integers(0, 2))
    def ask_for_the_verdict(self, earlier: int) -> None:
        source, _ = self.pair.sides(self.epoch)
        migration = f"m-{self.count - earlier}"
        if source.agent is not None:
            reply = source.live.source.verdict(migration)
            if reply.verdict in {Verdict.RELEASED, Verdict.ABORTED}:
                self.said[migration] = VerdictNotice(
                    migration=migration, verdict=reply.verdict, epoch=reply.epoch
                )

    @precondition(lambda self: self.said)
    @rule(number=NODES, which=st.integers(0, 5))
    def relay(self, number: int, which: int) -> None:
        notice = list(self.said.values())[which % len(self.said)]
        if self.node(number).agent is not None:
            self.send(self.node(number), self.node(number).live.target.decide(notice))

    @rule(number=NODES)
    def forget_at_the_source(self, number: int) -> None:
        """Not before somebody owns the container as the epoch that was released."""
        node, other = self.node(number), self.node(1 - number)
        if node.agent is None or other.agent is None or other.record is None:
            return
        record, successor = node.record, other.record
        released = record is not None and record.state is RecordState.RELEASED
        arrived = successor.state in OWNED
        if released and arrived and record is not None and record.migration is not None:
            self.send(node, node.live.source.forget(record.migration))

    @rule()
    def forget_what_was_aborted(self) -> None:
        source, _ = self.pair.sides(self.epoch)
        if source.agent is not None:
            report = source.live.source.report(self.migration)
            if report is not None and report.verdict is not Verdict.RELEASED:
                self.send(source, source.live.source.forget(self.migration))

    @rule(number=NODES)
    def forget_at_the_target(self, number: int) -> None:
        if self.node(number).agent is not None:
            self.send(self.node(number), self.node(number).live.target.forget(self.migration))

    # The bad day.

    @rule(message=MESSAGES)
    def lose_a_request(self, message: str) -> None:
        self.pair.network.lost_requests.append(message)

    @rule(message=MESSAGES)
    def lose_a_reply(self, message: str) -> None:
        self.pair.network.lost_replies.append(message)

    @rule(message=MESSAGES)
    def repeat_a_message(self, message: str) -> None:
        self.pair.network.repeated.append(message)

    @rule(message=MESSAGES, seconds=st.sampled_from([0.01, 0.1, 3.0, 10.0]))
    def delay_a_message(self, message: str, seconds: float) -> None:
        self.pair.network.late_seconds[message] = seconds

    @rule(is_cut=st.booleans())
    def cut_or_heal_the_link(self, is_cut: bool) -> None:
        self.pair.network.cut = is_cut

    @rule(number=NODES, step=STEPS)
    def let_a_step_fail(self, number: int, step: str) -> None:
        self.pair.world.fail(self.node(number).name, step)

    @rule(number=NODES, disk=st.sampled_from(Disk))
    def change_the_disk(self, number: int, disk: Disk) -> None:
        if self.node(number).agent is not None:
            self.node(number).live.journal.disk = disk

    @rule(number=NODES)
    def kill(self, number: int) -> None:
        self.node(number).down()

    @rule(number=NODES)
    def bring_up(self, number: int) -> None:
        self.node(number).up()

    @rule(number=NODES, really=st.integers(0, 4))
    def cut_the_power(self, number: int, really: int) -> None:
        if really == 0:
            self.node(number).power_cut()
            self.power_was_lost = True

    @rule(milliseconds=st.integers(1, 40))
    def wait_a_little(self, milliseconds: int) -> None:
        self.pair.world.work()
        self.pair.loop.pass_time(milliseconds / 1000)

    @rule(seconds=st.sampled_from([0.3, 3.0, 8.0]))
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
        for each in (self.pair.a, self.pair.b):
            each.restart()
        self.pair.settle()
        assert self.owner() is owner
        if self.pair.strategy is not Strategy.COLD:
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
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
