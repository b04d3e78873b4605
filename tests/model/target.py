"""What a target can do next, and what can go wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from model.rules import NONE
from model.scene import NODES, Scene, notice
from model.world import (
    Copy,
    Fact,
    Incoming,
    Move,
    Outgoing,
    Step,
    World,
    has,
    with_fact,
    with_incoming,
    with_node,
    with_outgoing,
)
from transship.agent.journal.recovery import VerdictAction
from transship.agentapi.states import RecordState, Verdict
from transship.common.errors import Refused

BEFORE_RESTORE = (Incoming.VACATING, Incoming.PREPARING, Incoming.PREPARED)


class Target:
    """The role of a target, for one move after the other. disks_fail: any write may."""

    def __init__(self, scene: Scene, *, disks_fail: bool) -> None:
        self._scene = scene
        self._disks_fail = disks_fail

    def steps(self, world: World, move: Move) -> Iterator[Step]:
        if not self._scene.is_up(world, move.target):
            return
        yield from self._of_phase(world, move, world.incoming[move.number])
        yield from self._hears(world, move)

    def begin(self, world: World, move: Move) -> World | None:
        """Take the operator's order; None: refused, or known already."""
        node = world.nodes[move.target]
        if world.incoming[move.number] != Incoming.NONE:
            return None
        if self._scene.incoming(node.memory, move, floor=node.floor) == NONE:
            return None
        return with_incoming(world, move, Incoming.VACATING)

    def abort(self, world: World, move: Move) -> World | None:
        """By the operator."""
        node = world.nodes[move.target]
        if world.incoming[move.number] not in (*BEFORE_RESTORE, Incoming.HELD):
            return None
        if not self._scene.may_be_aborted(node.memory, move):
            return None
        return self._throw_away(world, move)

    def decide(self, world: World, move: Move, verdict: Verdict) -> Iterator[tuple[str, World]]:
        """Hear a verdict, from whomever."""
        phase = world.incoming[move.number]
        try:
            answer = self._scene.rules.on_verdict(notice(move, verdict))
        except Refused:
            return
        if phase in (Incoming.GOING, Incoming.RUNNING):
            return
        if answer is VerdictAction.DISCARD and phase in (*BEFORE_RESTORE, Incoming.HELD):
            yield "throws its copy away", self._throw_away(world, move)
        if answer is VerdictAction.RUN and phase in (Incoming.PREPARED, Incoming.HELD):
            yield from self._go(world, move, verdict)

    def forget(self, world: World, move: Move) -> World | None:
        if world.incoming[move.number] not in (Incoming.RUNNING, Incoming.OVER):
            return None
        if self._scene.to_discard(world.nodes[move.target].memory, move):
            return with_incoming(world, move, Incoming.DISCARDING)
        return with_incoming(world, move, Incoming.NONE)

    def _of_phase(self, world: World, move: Move, phase: int) -> Iterator[Step]:
        match phase:
            case Incoming.VACATING:
                yield from self._vacate(world, move)
            case Incoming.PREPARING:
                yield from self._prepare(world, move)
            case Incoming.PREPARED if has(world, move, Fact.ASKED):
                yield from self._restore(world, move)
            case Incoming.RESTORING:
                yield from self._hold(world, move)
            case Incoming.GOING:
                yield self._resume(world, move)
            case Incoming.DISCARDING:
                copy = self._copy_becomes(world, move, Copy.ABSENT)
                yield self._step(
                    move, "destroys its copy", with_incoming(copy, move, Incoming.REMOVING)
                )
            case Incoming.REMOVING:
                yield self._remove(world, move)
            case _:
                return

    def _vacate(self, world: World, move: Move) -> Iterator[Step]:
        """What an earlier move has left here goes first (source.Source.vacate)."""
        memory = world.nodes[move.target].memory
        if self._scene.state(memory) is not RecordState.RELEASED:
            yield self._step(move, "has room", with_incoming(world, move, Incoming.PREPARING))
            return
        if not self._scene.may_be_destroyed(memory):
            yield self._step(
                move, "is refused: memory not sent", with_incoming(world, move, Incoming.OVER)
            )
            return
        for earlier in self._scene.moves:
            phase = world.outgoing[earlier.number]
            known = phase in (Outgoing.RELEASED, Outgoing.HEARD, Outgoing.DONE)
            if self._scene.is_of(memory, earlier) and known:
                done = with_outgoing(world, earlier, Outgoing.FORGETTING)
                yield self._step(move, f"ends what {earlier.name} has left", done)

    def _prepare(self, world: World, move: Move) -> Iterator[Step]:
        node = world.nodes[move.target]
        record = self._scene.incoming(node.memory, move, floor=node.floor)
        if record == NONE:
            yield self._step(
                move, "is refused after all", with_incoming(world, move, Incoming.OVER)
            )
            return
        yield self._written(world, move, record, Incoming.PREPARED, "writes Incoming")
        yield from self._failures(world, move, record, Incoming.OVER, "Incoming")

    def _restore(self, world: World, move: Move) -> Iterator[Step]:
        held = self._copy_becomes(world, move, Copy.HELD)
        wanted = world.outgoing[move.number] == Outgoing.FROZEN
        yield self._step(
            move, "restores", with_incoming(held, move, Incoming.RESTORING), fair=wanted
        )
        yield self._step(
            move, "fails to restore", with_incoming(held, move, Incoming.DISCARDING), fair=False
        )

    def _hold(self, world: World, move: Move) -> Iterator[Step]:
        record = self._scene.held(world.nodes[move.target].memory)
        if record == NONE:
            return
        done = with_fact(self._scene.write(world, move.target, record), move, Fact.HOLDS)
        yield self._step(move, "writes Held", with_incoming(done, move, Incoming.HELD))
        yield from self._failures(world, move, record, Incoming.DISCARDING, "Held")

    def _hears(self, world: World, move: Move) -> Iterator[Step]:
        """Verdicts that are under way, and its own question, when the source can answer."""
        sayable = self._sayable_now(world, move)
        for verdict, facts in ((Verdict.RELEASED, Fact.RELEASED), (Verdict.ABORTED, Fact.ABORTED)):
            if not has(world, move, facts) and verdict is not sayable:
                continue
            known = with_fact(world, move, facts)
            for name, done in self.decide(known, move, verdict):
                fair = verdict is sayable and not name.startswith("cannot")
                yield self._step(move, f"hears {verdict}: {name}", done, fair=fair)
        arrived = self._scene.has_arrived(world.nodes[move.target].memory, move)
        going = world.incoming[move.number] == Incoming.GOING
        if arrived and not going and not has(world, move, Fact.RUNS):
            yield self._step(move, "says that it runs", with_fact(world, move, Fact.RUNS))

    def _sayable_now(self, world: World, move: Move) -> Verdict | None:
        """What the source would answer: asked by a held target, or bringing go by itself."""
        there = world.nodes[move.source]
        if world.incoming[move.number] != Incoming.HELD or not self._scene.is_up(
            world, move.source
        ):
            return None
        return self._scene.verdict(there.memory, move)

    def _go(self, world: World, move: Move, verdict: Verdict) -> Iterator[tuple[str, World]]:
        record = self._scene.running(world.nodes[move.target].memory, move, verdict)
        if record == NONE:
            return
        done = self._scene.write(world, move.target, record)
        yield "writes Running", with_incoming(done, move, Incoming.GOING)
        if self._disks_fail:
            lied = self._scene.write_unnoticed(world, move.target, record)
            yield "cannot be sure that Running is written", lied

    def _resume(self, world: World, move: Move) -> Step:
        resumed = world
        if world.nodes[move.target].copy == Copy.HELD:
            resumed = self._copy_becomes(world, move, Copy.RUNNING)
        return self._step(move, "resumes", with_incoming(resumed, move, Incoming.RUNNING))

    def _throw_away(self, world: World, move: Move) -> World:
        mine = self._scene.to_discard(world.nodes[move.target].memory, move)
        return with_incoming(world, move, Incoming.DISCARDING if mine else Incoming.OVER)

    def _remove(self, world: World, move: Move) -> Step:
        node = world.nodes[move.target]
        if self._scene.to_discard(node.memory, move):
            world = with_node(world, move.target, node._replace(disk=NONE, memory=NONE))
        return self._step(move, "drops its record", with_incoming(world, move, Incoming.OVER))

    def _copy_becomes(self, world: World, move: Move, copy: int) -> World:
        return with_node(world, move.target, world.nodes[move.target]._replace(copy=copy))

    def _written(self, world: World, move: Move, record: int, phase: int, name: str) -> Step:
        done = self._scene.write(world, move.target, record)
        return self._step(move, name, with_incoming(done, move, phase))

    def _failures(
        self, world: World, move: Move, record: int, phase: int, name: str
    ) -> Iterator[Step]:
        if not self._disks_fail:
            return
        failed = with_incoming(world, move, phase)
        yield self._step(move, f"cannot write {name}", failed, fair=False)
        lied = self._scene.write_unnoticed(failed, move.target, record)
        yield self._step(move, f"writes {name}, reported as failed", lied, fair=False)

    def _step(self, move: Move, name: str, world: World, *, fair: bool = True) -> Step:
        return Step((NODES[move.target], "target of", move.name, name), world, fair)
