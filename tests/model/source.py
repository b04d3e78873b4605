"""What a source can do next, and what can go wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from model.rules import NONE
from model.scene import NODES, Scene
from model.world import (
    DOWN,
    Copy,
    Fact,
    Incoming,
    Move,
    Outgoing,
    Step,
    World,
    has,
    with_fact,
    with_node,
    with_outgoing,
)
from transship.agentapi.states import RecordState

UNDECIDED = (Outgoing.COPYING, Outgoing.FREEZING, Outgoing.FROZEN)


class Source:
    """The role of a source in each move. disks_fail: any write may fail."""

    def __init__(self, scene: Scene, *, disks_fail: bool) -> None:
        self._scene = scene
        self._disks_fail = disks_fail

    def steps(self, world: World, move: Move) -> Iterator[Step]:
        if not self._scene.is_up(world, move.source):
            return
        phase = world.outgoing[move.number]
        if phase in UNDECIDED:
            yield self._step(move, "gives up", with_outgoing(world, move, Outgoing.ROLLING_BACK),
                             fair=self._waits_in_vain(world, move))  # fmt: skip
        yield from self._of_phase(world, move, phase)

    def begin(self, world: World, move: Move) -> World | None:
        """Take the operator's order; None: refused, or known already."""
        node = world.nodes[move.source]
        if world.outgoing[move.number] != Outgoing.NONE or self._is_busy(world, move):
            return None
        record = self._scene.outgoing(node.memory, move)
        if record == NONE:
            return None
        return with_outgoing(self._scene.write(world, move.source, record), move, Outgoing.COPYING)

    def _is_busy(self, world: World, move: Move) -> bool:
        """Source._require_no_other."""
        return any(
            Outgoing.COPYING <= world.outgoing[other.number] <= Outgoing.THAWING
            for other in self._scene.moves
            if other.source == move.source
        )

    def abort(self, world: World, move: Move) -> World | None:
        """By the operator, also of a move that has not begun here (Source._forbid)."""
        phase, memory = world.outgoing[move.number], world.nodes[move.source].memory
        if phase in UNDECIDED:
            return with_outgoing(world, move, Outgoing.ROLLING_BACK)
        record = NONE
        if phase == Outgoing.NONE and memory != NONE:
            record = self._scene.aborted(memory, move)
        if record in (NONE, memory):
            return None
        return self._scene.write(world, move.source, record)

    def forget(self, world: World, move: Move) -> World | None:
        match world.outgoing[move.number]:
            case Outgoing.OVER:
                return with_outgoing(world, move, Outgoing.NONE)
            case Outgoing.RELEASED | Outgoing.HEARD | Outgoing.DONE:
                if not self._scene.may_be_destroyed(world.nodes[move.source].memory):
                    return None  # it ends by itself once its memory is sent
                return with_outgoing(world, move, Outgoing.FORGETTING)
            case _:
                return None

    def _of_phase(self, world: World, move: Move, phase: int) -> Iterator[Step]:  # noqa: C901
        match phase:
            case Outgoing.COPYING:
                yield from self._freeze(world, move)
            case Outgoing.FREEZING:
                yield self._stop(world, move)
            case Outgoing.FROZEN if has(world, move, Fact.HOLDS):
                yield from self._release(world, move)
            case Outgoing.ROLLING_BACK | Outgoing.UNSURE:
                yield from self._make_abort_durable(world, move, phase)
            case Outgoing.THAWING:
                yield self._thaw(world, move)
            case Outgoing.OWING:
                yield from self._write_owed_abort(world, move)
            case Outgoing.RELEASED if has(world, move, Fact.RUNS):
                yield self._step(
                    move, "hears that it runs", with_outgoing(world, move, Outgoing.HEARD)
                )
            case Outgoing.HEARD if self._scene.memory_follows(world.nodes[move.source].memory):
                yield from self._push_memory(world, move)
            case Outgoing.HEARD | Outgoing.FORGETTING:
                yield from self._destroy(world, move, phase)
            case _:
                return

    def _waits_in_vain(self, world: World, move: Move) -> bool:
        """No answer will come: the target has nothing to restore, or its answer got lost."""
        busy = world.incoming[move.number] in (Incoming.PREPARED, Incoming.RESTORING)
        return not busy and not has(world, move, Fact.HOLDS)

    def _freeze(self, world: World, move: Move) -> Iterator[Step]:
        record = self._scene.frozen(world.nodes[move.source].memory, move)
        if record == NONE or self._scene.awaits_memory(world, move.source):
            return  # what is still to come cannot be dumped
        yield self._written(world, move, record, Outgoing.FREEZING, "writes Frozen")
        yield from self._failures(world, move, record, Outgoing.ROLLING_BACK, "Frozen")

    def _stop(self, world: World, move: Move) -> Step:
        """Tasks stop; from now on the target may be asked to restore."""
        world = self._copy_becomes(world, move, Copy.FROZEN)
        asked = with_fact(world, move, Fact.ASKED)
        return self._step(move, "freezes", with_outgoing(asked, move, Outgoing.FROZEN))

    def _release(self, world: World, move: Move) -> Iterator[Step]:
        record = self._scene.released(world.nodes[move.source].memory, move)
        if record == NONE:
            return
        done = self._scene.write(world, move.source, record)
        done = with_outgoing(with_fact(done, move, Fact.RELEASED), move, Outgoing.RELEASED)
        yield self._step(move, "writes Released", done)
        yield from self._failures(world, move, record, Outgoing.UNSURE, "Released")

    def _make_abort_durable(self, world: World, move: Move, phase: int) -> Iterator[Step]:
        memory = world.nodes[move.source].memory
        if not self._scene.owes_abort(memory, move):
            yield self._step(move, "owes nothing", with_outgoing(world, move, Outgoing.OVER))
            return
        record = self._scene.aborted(memory, move)
        if record == NONE:
            return
        froze = self._scene.state(memory) is RecordState.FROZEN
        ended = Outgoing.THAWING if froze else Outgoing.OVER
        yield self._written(world, move, record, ended, "writes Aborted")
        tried = phase == Outgoing.UNSURE
        goes_on = self._scene.rules.may_run_on_unwritten(release_tried=tried)
        after = (Outgoing.THAWING if froze else Outgoing.OWING) if goes_on else phase
        yield from self._failures(world, move, record, after, "Aborted")

    def _thaw(self, world: World, move: Move) -> Step:
        owes = self._scene.owes_abort(world.nodes[move.source].memory, move)
        if world.nodes[move.source].copy == Copy.FROZEN:
            world = self._copy_becomes(world, move, Copy.RUNNING)
        world = with_fact(world, move, Fact.ABORTED)
        return self._step(
            move, "runs on", with_outgoing(world, move, Outgoing.OWING if owes else Outgoing.OVER)
        )

    def _write_owed_abort(self, world: World, move: Move) -> Iterator[Step]:
        memory = world.nodes[move.source].memory
        if not self._scene.owes_abort(memory, move):
            yield self._step(move, "owes nothing", with_outgoing(world, move, Outgoing.OVER))
            return
        record = self._scene.aborted(memory, move)
        if record != NONE:
            yield self._written(world, move, record, Outgoing.OVER, "writes Aborted at last")

    def _push_memory(self, world: World, move: Move) -> Iterator[Step]:
        """The memory follows; a container that has ended meanwhile waits for none."""
        there, memory = world.nodes[move.target], world.nodes[move.source].memory
        if self._scene.awaits_memory(world, move.target):
            if there.memory != DOWN and world.nodes[move.source].copy == Copy.FROZEN:
                yield self._step(move, "sends its memory", with_fact(world, move, Fact.WHOLE))
            return
        arrived = there.memory == NONE or self._scene.has_arrived(there.memory, move)
        if there.memory != DOWN and (arrived or has(world, move, Fact.WHOLE)):
            record = self._scene.memory_sent(memory)
            yield self._written(world, move, record, Outgoing.HEARD, "notes that memory is sent")

    def _destroy(self, world: World, move: Move, phase: int) -> Iterator[Step]:
        """Observation to forget, it drops the record as well."""
        node = world.nodes[move.source]
        if not self._scene.is_of(node.memory, move):
            yield self._step(move, "has nothing left", with_outgoing(world, move, Outgoing.NONE))
        elif not self._scene.may_be_destroyed(node.memory):
            return
        elif node.copy != Copy.ABSENT:
            yield self._step(move, "destroys", self._copy_becomes(world, move, Copy.ABSENT))
        elif phase == Outgoing.HEARD:
            yield self._step(move, "is done", with_outgoing(world, move, Outgoing.DONE))
        else:
            floor = max(node.floor, self._scene.ledger.record(node.memory).epoch + 1)
            node = node._replace(disk=NONE, memory=NONE, floor=floor)
            world = with_node(world, move.source, node)
            yield self._step(move, "drops its record", with_outgoing(world, move, Outgoing.NONE))

    def _copy_becomes(self, world: World, move: Move, copy: int) -> World:
        node = world.nodes[move.source]
        present = copy if node.copy != Copy.ABSENT else Copy.ABSENT
        return with_node(world, move.source, node._replace(copy=present))

    def _written(self, world: World, move: Move, record: int, phase: int, name: str) -> Step:
        done = self._scene.write(world, move.source, record)
        return self._step(move, name, with_outgoing(done, move, phase))

    def _failures(
        self, world: World, move: Move, record: int, phase: int, name: str
    ) -> Iterator[Step]:
        if not self._disks_fail:
            return
        failed = with_outgoing(world, move, phase)
        yield self._step(move, f"cannot write {name}", failed, fair=False)
        lied = self._scene.write_unnoticed(failed, move.source, record)
        yield self._step(move, f"writes {name}, reported as failed", lied, fair=False)

    def _step(self, move: Move, name: str, world: World, *, fair: bool = True) -> Step:
        return Step((NODES[move.source], "source of", move.name, name), world, fair)
