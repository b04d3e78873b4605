"""A node as a whole: its agent ends and starts, its power fails, it supervises its containers."""

from __future__ import annotations

from collections.abc import Iterator

from model.rules import NONE
from model.scene import BOOT, NODES, Scene
from model.world import (
    DOWN,
    Copy,
    Fact,
    Fencing,
    Incoming,
    Outgoing,
    Step,
    World,
    has,
    with_fact,
    with_incoming,
    with_node,
    with_outgoing,
)
from transship.agent.containers import decide as supervision
from transship.agent.containers.decide import ObservedContainer, Situation
from transship.agent.journal.recovery import RecoveryStep
from transship.agentapi.states import RunState

RUN_STATES = {
    Copy.ABSENT: RunState.ABSENT,
    Copy.RUNNING: RunState.RUNNING,
    Copy.FROZEN: RunState.FROZEN,
    Copy.HELD: RunState.FROZEN,
}
DISOWNED = (
    Outgoing.FREEZING, Outgoing.FROZEN, Outgoing.UNSURE, Outgoing.ROLLING_BACK, Outgoing.THAWING,
)  # fmt: skip


class Nodes:
    """Both nodes. power_fails: copies may be lost, records never are."""

    def __init__(self, scene: Scene, *, power_fails: bool) -> None:
        self._scene = scene
        self._power_fails = power_fails

    def steps(self, world: World, at: int) -> Iterator[Step]:
        if self._scene.is_up(world, at):
            yield Step((NODES[at], "agent is killed"), self._ended(world, at), fair=False)
            yield from self._supervise(world, at)
        else:
            yield from self._starts(world, at)
        if self._power_fails and world.nodes[at].fencing != Fencing.GONE:
            lost = self._power_lost(world, at)
            yield Step((NODES[at], "loses power"), lost, fair=False)
            if self._may_be_declared_gone(world, at):
                gone = with_node(lost, at, lost.nodes[at]._replace(fencing=Fencing.GONE))
                yield Step((NODES[at], "loses power, and is declared gone"), gone, fair=False)

    def _may_be_declared_gone(self, world: World, at: int) -> bool:
        """Only a node without power may be: that is what the word means.

        A target that is gone takes what was released to it along: there is nothing to explore.
        """
        never = world.nodes[at].fencing == Fencing.NEVER
        created = [move for move in self._scene.moves if has(world, move, Fact.CREATED)]
        return never and all(move.source == at for move in created)

    def _starts(self, world: World, at: int) -> Iterator[Step]:
        node = world.nodes[at]
        if node.fencing != Fencing.GONE:
            yield Step((NODES[at], "agent starts"), self._started(world, at), fair=True)
        else:
            back = with_node(world, at, node._replace(fencing=Fencing.RETURNED))
            yield Step((NODES[at], "comes back after all"), back, fair=True)

    def _ended(self, world: World, at: int) -> World:
        """What is in memory is gone; copies stay as they are."""
        for move in self._scene.moves:
            if move.source == at:
                world = with_outgoing(world, move, Outgoing.NONE)
            else:
                world = with_incoming(world, move, Incoming.NONE)
        return with_node(world, at, world.nodes[at]._replace(memory=DOWN))

    def _power_lost(self, world: World, at: int) -> World:
        world = self._ended(world, at)
        node = world.nodes[at]
        aged = self._scene.aged(node.disk)
        for move in self._scene.moves:
            if move.follows and move.target == at and node.copy != Copy.ABSENT:
                world = with_fact(world, move, Fact.WHOLE)  # nobody waits for memory any more
        return with_node(world, at, node._replace(disk=aged, copy=Copy.ABSENT, rebooted=True))

    def _started(self, world: World, at: int) -> World:
        """The journal is read and obeyed: Source.recover, Target.recover."""
        disk = world.nodes[at].disk
        world = with_node(world, at, world.nodes[at]._replace(memory=disk))
        world = self._scene.with_known(world, at)
        recovery_step = self._recovery_step(disk)
        for move in self._scene.moves:
            if not self._scene.is_of(disk, move):
                continue
            if move.source == at:
                world = with_outgoing(
                    world, move, _OUTGOING_AFTER.get(recovery_step, Outgoing.NONE)
                )
            else:
                world = with_incoming(
                    world, move, _INCOMING_AFTER.get(recovery_step, Incoming.NONE)
                )
        return world

    def _recovery_step(self, record: int) -> RecoveryStep:
        def rule() -> RecoveryStep:
            recovery_step: RecoveryStep = self._scene.rules.after_restart(
                self._scene.ledger.record(record)
            )
            return recovery_step

        known: RecoveryStep = (
            self._scene.ledger.find(("duty", record), rule) if record else RecoveryStep.NONE
        )
        return known

    def _supervise(self, world: World, at: int) -> Iterator[Step]:
        node = world.nodes[at]
        if node.memory == NONE or self._is_disowned(world, at):
            return
        match self.step_of_instance(node.memory, node.copy):
            case supervision.Step.THAW:
                yield self._step(at, "lets it run", world, copy=Copy.RUNNING)
            case supervision.Step.START:
                record = self._scene.started(node.memory)
                if not any(each.rebooted for each in world.nodes):
                    world = with_fact(world, self._scene.moves[0], Fact.LOST)
                world = self._scene.write(world, at, record)
                yield self._step(at, "starts it from its image", world, copy=Copy.RUNNING)
            case supervision.Step.RECORD_EXIT:
                record = self._scene.restarting(node.memory)
                world = self._scene.write(world, at, record)
                yield self._step(at, "notes its end", world, copy=Copy.ABSENT)
            case _:
                return

    def _is_disowned(self, world: World, at: int) -> bool:
        return any(
            world.outgoing[move.number] in DISOWNED
            if move.source == at
            else world.incoming[move.number] == Incoming.GOING
            for move in self._scene.moves
        )

    def step_of_instance(self, record: int, copy: int) -> supervision.Step:
        def rule() -> supervision.Step:
            found = self._scene.ledger.record(record)
            step: supervision.Step = self._scene.rules.next_instance_step(
                Situation(found, ObservedContainer(RUN_STATES[copy]), boot=BOOT, fetched=True)
            )
            return step

        known: supervision.Step = self._scene.ledger.find(("instance", record, copy), rule)
        return known

    def _step(self, at: int, name: str, world: World, *, copy: int) -> Step:
        done = with_node(world, at, world.nodes[at]._replace(copy=copy))
        return Step((NODES[at], name), done, fair=True)


_OUTGOING_AFTER = {RecoveryStep.KEEP: Outgoing.ROLLING_BACK, RecoveryStep.FINISH: Outgoing.RELEASED}
_INCOMING_AFTER = {RecoveryStep.DISCARD: Incoming.DISCARDING, RecoveryStep.ASK: Incoming.HELD}
