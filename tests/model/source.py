"""What a source can do next, and what can go wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from model.rules import NONE
from model.scene import NODES, Scene
from model.world import (
    DOWN,
    Coming,
    Copy,
    Leaving,
    Move,
    Said,
    Step,
    World,
    has,
    leaves,
    says,
    with_node,
)
from transship.agentapi.states import RecordState

UNDECIDED = (Leaving.COPYING, Leaving.FREEZING, Leaving.FROZEN)


class Source:
    """The role of a source, for one move after the other. disks_fail: any write may."""

    def __init__(self, scene: Scene, *, disks_fail: bool) -> None:
        self._scene = scene
        self._disks_fail = disks_fail

    def steps(self, world: World, move: Move) -> Iterator[Step]:
        if not self._scene.is_up(world, move.source):
            return
        phase = world.leaving[move.number]
        if phase in UNDECIDED:
            yield self._step(move, "gives up", leaves(world, move, Leaving.ROLLING_BACK),
                             fair=self._waits_in_vain(world, move))  # fmt: skip
        yield from self._of_phase(world, move, phase)

    def begin(self, world: World, move: Move) -> World | None:
        """Take the operator's order; None: refused, or known already."""
        node = world.nodes[move.source]
        if world.leaving[move.number] != Leaving.NONE or self._is_busy(world, move):
            return None
        record = self._scene.outgoing(node.memory, move)
        if record == NONE:
            return None
        return leaves(self._scene.write(world, move.source, record), move, Leaving.COPYING)

    def _is_busy(self, world: World, move: Move) -> bool:
        """Source._require_no_other."""
        return any(
            Leaving.COPYING <= world.leaving[other.number] <= Leaving.THAWING
            for other in self._scene.moves
            if other.source == move.source
        )

    def abort(self, world: World, move: Move) -> World | None:
        """By the operator, also of a move that has not begun here (Source._forbid)."""
        phase, memory = world.leaving[move.number], world.nodes[move.source].memory
        if phase in UNDECIDED:
            return leaves(world, move, Leaving.ROLLING_BACK)
        record = NONE
        if phase == Leaving.NONE and memory != NONE:
            record = self._scene.aborted(memory, move)
        if record in (NONE, memory):
            return None
        return self._scene.write(world, move.source, record)

    def forget(self, world: World, move: Move) -> World | None:
        match world.leaving[move.number]:
            case Leaving.OVER:
                return leaves(world, move, Leaving.NONE)
            case Leaving.RELEASED | Leaving.HEARD | Leaving.DONE:
                if not self._scene.may_be_destroyed(world.nodes[move.source].memory):
                    return None  # it ends by itself once it is drained
                return leaves(world, move, Leaving.FORGETTING)
            case _:
                return None

    def _of_phase(self, world: World, move: Move, phase: int) -> Iterator[Step]:  # noqa: C901
        match phase:
            case Leaving.COPYING:
                yield from self._freeze(world, move)
            case Leaving.FREEZING:
                yield self._stop(world, move)
            case Leaving.FROZEN if has(world, move, Said.HOLDS):
                yield from self._decide(world, move)
            case Leaving.ROLLING_BACK | Leaving.UNSURE:
                yield from self._promise_to_keep(world, move, phase)
            case Leaving.THAWING:
                yield self._thaw(world, move)
            case Leaving.OWING:
                yield from self._make_durable(world, move)
            case Leaving.RELEASED if has(world, move, Said.RUNS):
                yield self._step(move, "hears that it runs", leaves(world, move, Leaving.HEARD))
            case Leaving.HEARD if self._scene.drains(world.nodes[move.source].memory):
                yield from self._drain(world, move)
            case Leaving.HEARD | Leaving.FORGETTING:
                yield from self._destroy(world, move, phase)

    def _waits_in_vain(self, world: World, move: Move) -> bool:
        """No answer will come: the target has nothing to restore into, or its answer got lost."""
        busy = world.coming[move.number] in (Coming.PREPARED, Coming.RESTORING)
        return not busy and not has(world, move, Said.HOLDS)

    def _freeze(self, world: World, move: Move) -> Iterator[Step]:
        record = self._scene.frozen(world.nodes[move.source].memory, move)
        if record == NONE or self._scene.awaits_memory(world, move.source):
            return  # what is still to come cannot be dumped
        yield self._written(world, move, record, Leaving.FREEZING, "writes Frozen")
        yield from self._failures(world, move, record, Leaving.ROLLING_BACK, "Frozen")

    def _stop(self, world: World, move: Move) -> Step:
        """Tasks stop; from now on the target may be asked to restore."""
        world = self._copy_becomes(world, move, Copy.FROZEN)
        asked = says(world, move, Said.ASKED)
        return self._step(move, "freezes", leaves(asked, move, Leaving.FROZEN))

    def _decide(self, world: World, move: Move) -> Iterator[Step]:
        record = self._scene.released(world.nodes[move.source].memory, move)
        if record == NONE:
            return
        done = self._scene.write(world, move.source, record)
        done = leaves(says(done, move, Said.RELEASED), move, Leaving.RELEASED)
        yield self._step(move, "writes Released", done)
        yield from self._failures(world, move, record, Leaving.UNSURE, "Released")

    def _promise_to_keep(self, world: World, move: Move, phase: int) -> Iterator[Step]:
        memory = world.nodes[move.source].memory
        if not self._scene.owes_abort(memory, move):
            yield self._step(move, "owes nothing", leaves(world, move, Leaving.OVER))
            return
        record = self._scene.aborted(memory, move)
        if record == NONE:
            return
        froze = self._scene.state(memory) is RecordState.FROZEN
        ended = Leaving.THAWING if froze else Leaving.OVER
        yield self._written(world, move, record, ended, "writes Aborted")
        tried = phase == Leaving.UNSURE
        goes_on = self._scene.rules.may_run_on_unwritten(release_tried=tried)
        after = (Leaving.THAWING if froze else Leaving.OWING) if goes_on else phase
        yield from self._failures(world, move, record, after, "Aborted")

    def _thaw(self, world: World, move: Move) -> Step:
        owes = self._scene.owes_abort(world.nodes[move.source].memory, move)
        if world.nodes[move.source].copy == Copy.FROZEN:
            world = self._copy_becomes(world, move, Copy.RUNNING)
        world = says(world, move, Said.ABORTED)
        return self._step(
            move, "runs on", leaves(world, move, Leaving.OWING if owes else Leaving.OVER)
        )

    def _make_durable(self, world: World, move: Move) -> Iterator[Step]:
        memory = world.nodes[move.source].memory
        if not self._scene.owes_abort(memory, move):
            yield self._step(move, "owes nothing", leaves(world, move, Leaving.OVER))
            return
        record = self._scene.aborted(memory, move)
        if record != NONE:
            yield self._written(world, move, record, Leaving.OVER, "writes Aborted at last")

    def _drain(self, world: World, move: Move) -> Iterator[Step]:
        """The memory follows; a container that has ended meanwhile waits for none."""
        there, memory = world.nodes[move.target], world.nodes[move.source].memory
        if self._scene.awaits_memory(world, move.target):
            if there.memory != DOWN and world.nodes[move.source].copy == Copy.FROZEN:
                yield self._step(move, "sends its memory", says(world, move, Said.WHOLE))
            return
        arrived = there.memory == NONE or self._scene.has_arrived(there.memory, move)
        if there.memory != DOWN and (arrived or has(world, move, Said.WHOLE)):
            record = self._scene.memory_sent(memory)
            yield self._written(world, move, record, Leaving.HEARD, "notes that it is drained")

    def _destroy(self, world: World, move: Move, phase: int) -> Iterator[Step]:
        """Told to forget, it drops the record as well."""
        node = world.nodes[move.source]
        if not self._scene.is_of(node.memory, move):
            yield self._step(move, "has nothing left", leaves(world, move, Leaving.NONE))
        elif not self._scene.may_be_destroyed(node.memory):
            return
        elif node.copy != Copy.ABSENT:
            yield self._step(move, "destroys", self._copy_becomes(world, move, Copy.ABSENT))
        elif phase == Leaving.HEARD:
            yield self._step(move, "is done", leaves(world, move, Leaving.DONE))
        else:
            floor = max(node.floor, self._scene.ledger.record(node.memory).epoch + 1)
            node = node._replace(disk=NONE, memory=NONE, floor=floor)
            world = with_node(world, move.source, node)
            yield self._step(move, "drops its record", leaves(world, move, Leaving.NONE))

    def _copy_becomes(self, world: World, move: Move, copy: int) -> World:
        node = world.nodes[move.source]
        present = copy if node.copy != Copy.ABSENT else Copy.ABSENT
        return with_node(world, move.source, node._replace(copy=present))

    def _written(self, world: World, move: Move, record: int, phase: int, name: str) -> Step:
        done = self._scene.write(world, move.source, record)
        return self._step(move, name, leaves(done, move, phase))

    def _failures(
        self, world: World, move: Move, record: int, phase: int, name: str
    ) -> Iterator[Step]:
        if not self._disks_fail:
            return
        failed = leaves(world, move, phase)
        yield self._step(move, f"cannot write {name}", failed, fair=False)
        lied = self._scene.write_unnoticed(failed, move.source, record)
        yield self._step(move, f"writes {name}, told that it failed", lied, fair=False)

    def _step(self, move: Move, name: str, world: World, *, fair: bool = True) -> Step:
        return Step((NODES[move.source], "source of", move.name, name), world, fair)
