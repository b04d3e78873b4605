"""The operator: what it decides (controller/migration/decide.py) from what both agents report.

As an adversary it sends any order at any time, and each may arrive late and again; only what tells
an agent to forget waits until the real decision has been to finish. As a fair one it does what its
plan says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fakes.orders import ID
from model.node import RUN_STATES, Nodes
from model.rules import NONE
from model.scene import NODES, Scene
from model.source import Source
from model.target import Target
from model.world import (
    DOWN,
    Copy,
    Fact,
    Fencing,
    Incoming,
    Move,
    Outgoing,
    Step,
    World,
    has,
    with_fact,
    with_node,
)
from transship.agent.containers import decide as supervision
from transship.agentapi.containers import ContainerReport
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import MigrationSpec
from transship.api.obstacle import obstacle
from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.controller.migration.steps import (
    AbortSource,
    AbortTarget,
    Begin,
    Finish,
    GiveUp,
    ObservedMigration,
    Outcome,
    Prepare,
    RecordFence,
    RelayVerdict,
    Side,
)
from transship.controller.migration.steps import Step as PlanStep
from transship.controller.placement.owner import OWNING

A_LONG_TIME_SECONDS = 1000.0
Observation = tuple[int, int, int]
"""What an agent has in its memory: the phase, the record, the copy."""
WITHDRAWN = GiveUp(
    Outcome.CANCELLED, obstacle(Reason.MIGRATION_SUPERSEDED, "the edit was taken back")
)

_SOURCE_STATES = {
    Outgoing.NONE: None,
    Outgoing.COPYING: SideState.COPYING,
    Outgoing.FREEZING: SideState.FROZEN,
    Outgoing.FROZEN: SideState.FROZEN,
    Outgoing.UNSURE: SideState.FROZEN,
    Outgoing.ROLLING_BACK: SideState.FROZEN,
    Outgoing.THAWING: SideState.FROZEN,
    Outgoing.OWING: SideState.FAILED,
    Outgoing.RELEASED: SideState.RELEASED,
    Outgoing.HEARD: SideState.RELEASED,
    Outgoing.FORGETTING: SideState.RELEASED,
    Outgoing.DONE: SideState.DONE,
    Outgoing.OVER: SideState.FAILED,
}
_TARGET_STATES = {
    Incoming.NONE: None,
    Incoming.VACATING: SideState.PREPARING,
    Incoming.PREPARING: SideState.PREPARING,
    Incoming.PREPARED: SideState.PREPARED,
    Incoming.RESTORING: SideState.PREPARED,
    Incoming.HELD: SideState.HELD,
    Incoming.GOING: SideState.HELD,
    Incoming.RUNNING: SideState.RUNNING,
    Incoming.DISCARDING: SideState.PREPARED,
    Incoming.REMOVING: SideState.PREPARED,
    Incoming.OVER: SideState.CANCELLED,
}


class Overseer:
    """The operator of all moves of a scene."""

    def __init__(self, scene: Scene, source: Source, target: Target, nodes: Nodes) -> None:
        self._scene, self._source, self._target, self._nodes = scene, source, target, nodes

    def steps(self, world: World, move: Move) -> Iterator[Step]:
        if not has(world, move, Fact.CREATED):
            if self._may_create(world, move):
                yield _step("creates", move, with_fact(world, move, Fact.CREATED), fair=False)
            return
        planned, may_finish = self._plans(world, move)
        yield from self._orders(world, move, planned)
        if has(world, move, Fact.OVER):
            yield from self._tidies(world, move)
        elif may_finish:
            over = with_fact(world, move, Fact.OVER)
            yield _step("notes the end", move, over, fair=Finish in planned)
        yield from self._orders_container(world, move)
        yield from self._removes_superseded(world, move)

    def _may_create(self, world: World, move: Move) -> bool:
        """One at a time, from the owner that the agents tell of."""
        created = [m for m in self._scene.moves if has(world, m, Fact.CREATED)]
        owner = max([1, *(m.epoch + 1 for m in created if has(world, m, Fact.KNOWN))])
        return owner == move.epoch and all(has(world, m, Fact.OVER) for m in created)

    def _orders(
        self, world: World, move: Move, planned: dict[type[PlanStep], PlanStep]
    ) -> Iterator[Step]:
        source, target = (
            self._scene.is_up(world, move.source),
            self._scene.is_up(world, move.target),
        )
        if target and (done := self._target.begin(world, move)):
            yield _step("orders the target to prepare", move, done, fair=Prepare in planned)
        late = has(world, move, Fact.OVER)
        if late and world.nodes[move.source].fencing == Fencing.RETURNED:
            source = False  # what was under way to a node did not outlive its loss of power
        if source and (done := self._source.begin(world, move)):
            yield _step("orders the source to begin", move, done, fair=Begin in planned)
        if source and (done := self._source.abort(world, move)):
            yield _step("aborts the source", move, done, fair=AbortSource in planned)
        if target and (done := self._target.abort(world, move)):
            yield _step("aborts the target", move, done, fair=AbortTarget in planned)
        yield from self._verdicts(world, move, planned)

    def _verdicts(
        self, world: World, move: Move, planned: dict[type[PlanStep], PlanStep]
    ) -> Iterator[Step]:
        if RecordFence in planned:
            yield _step("notes the fence", move, with_fact(world, move, Fact.FENCED), fair=True)
        relay = planned.get(RelayVerdict)
        if self._scene.is_up(world, move.target) and isinstance(relay, RelayVerdict):
            for name, done in self._target.decide(world, move, relay.verdict):
                fair = not name.startswith("cannot")
                yield _step(f"relays {relay.verdict}: target {name}", move, done, fair=fair)

    def _tidies(self, world: World, move: Move) -> Iterator[Step]:
        """Both sides are told to forget; what is left is ended as the placement's Tidy does."""
        if self._scene.is_up(world, move.source) and (done := self._source.forget(world, move)):
            yield _step("tells the source to forget", move, done, fair=True)
        if self._scene.is_up(world, move.target):
            if done := self._target.forget(world, move):
                yield _step("tells the target to forget", move, done, fair=True)
            if done := self._target.abort(world, move):
                yield _step("tidies the target up", move, done, fair=True)

    def _orders_container(self, world: World, move: Move) -> Iterator[Step]:
        """Orders of every owner that the operator has ever known may arrive at any time."""
        if move.number == 0:
            yield from self._order(world, move.source, epoch=1)
        if has(world, move, Fact.KNOWN | Fact.FENCED):
            yield from self._order(world, move.target, epoch=move.epoch + 1)

    def _order(self, world: World, at: int, *, epoch: int) -> Iterator[Step]:
        node = world.nodes[at]
        if not self._scene.is_up(world, at):
            return
        record = self._scene.ordered(node.memory, epoch=epoch, floor=node.floor)
        if record in (NONE, node.memory):
            return
        if node.rebooted and not self._is_newest(world, epoch):
            return  # what was under way to a node did not outlive its loss of power
        waits = self._awaits_order(node.memory, node.copy) if node.memory else self._is_lost(world)
        done = self._scene.write(world, at, record)
        fair = waits and self._is_newest(world, epoch)
        yield Step(("operator", f"orders the container of {NODES[at]} as {epoch}"), done, fair)

    def _removes_superseded(self, world: World, move: Move) -> Iterator[Step]:
        """controller.placement.owner's superseded: a fenced node has come back."""
        if not has(world, move, Fact.FENCED):
            return
        here, there = world.nodes[move.source], world.nodes[move.target]
        memories = [node.memory for node in (here, there)]
        if not all(m > NONE and self._scene.owned(m) for m in memories):
            return
        old, new = (self._scene.ledger.record(m) for m in memories)
        if old.migration is None and new.migration is None and old.epoch < new.epoch:
            node = here._replace(
                disk=NONE, memory=NONE, copy=Copy.ABSENT, floor=max(here.floor, old.epoch)
            )
            done = with_node(world, move.source, node)
            yield _step("removes what is superseded", move, done, fair=True)

    def _is_lost(self, world: World) -> bool:
        """A move from a fenced node is over, and its target threw away what it had."""
        return any(
            has(world, m, Fact.FENCED) and has(world, m, Fact.OVER) for m in self._scene.moves
        )

    def _awaits_order(self, record: int, copy: int) -> bool:
        return self._nodes.step_of_instance(record, copy) is supervision.Step.AWAIT_ORDER

    def _is_newest(self, world: World, epoch: int) -> bool:
        """As far as anybody can know: what both agents say counts more than what once was.

        A fence that was written down counts most: the target owns, whatever either has by then.
        """
        memories = [node.memory for node in world.nodes]
        known = [m.epoch + 1 for m in self._scene.moves if has(world, m, Fact.KNOWN)]
        if DOWN not in memories:
            owning = [m for m in memories if self._scene.state(m) in OWNING]
            known = [self._scene.ledger.record(m).epoch for m in owning] or known
        fenced = [m.epoch + 1 for m in self._scene.moves if has(world, m, Fact.FENCED)]
        return epoch == max([1, *known, *fenced])

    # What it sees and decides.

    def _plans(self, world: World, move: Move) -> tuple[dict[type[PlanStep], PlanStep], bool]:
        """What a fair operator does now, and whether any operator may finish.

        It may have heard one side only, waited for long or not, with or without a wish to give up.
        """
        here, there = world.nodes[move.source], world.nodes[move.target]
        source = (world.outgoing[move.number], here.memory, here.copy)
        target = (world.incoming[move.number], there.memory, there.copy)
        gone = (here.fencing == Fencing.GONE, there.fencing == Fencing.GONE)
        awaits = self._scene.awaits_memory(world, move.target)
        noted = has(world, move, Fact.FENCED)

        def plans() -> tuple[dict[type[PlanStep], PlanStep], bool]:
            observed = (gone, awaits, noted)
            fair = self._plan(move, source, target, *observed, waited=True, give_up=False)
            possible = [
                self._plan(move, a, b, *observed, waited=waited, give_up=give_up)
                for a, b in ((source, target), (source, None), (None, target))
                for waited in (False, True)
                for give_up in (False, True)
            ]
            return {type(fair): fair}, any(isinstance(step, Finish) for step in possible)

        found: tuple[dict[type[PlanStep], PlanStep], bool] = self._scene.ledger.find(
            ("plans", move.number, source, target, gone, awaits, noted), plans
        )
        return found

    def _plan(
        self, move: Move, source: Observation | None, target: Observation | None,
        gone: tuple[bool, bool], awaits: bool, noted: bool,
        *, waited: bool, give_up: bool,
    ) -> PlanStep:  # fmt: skip
        step: PlanStep = self._scene.rules.next_migration_step(
            ObservedMigration(
                spec=_spec(move),
                source=replace(self._source_side(move, source), fenced=gone[0]),
                target=_awaiting(replace(self._target_side(move, target), fenced=gone[1]), awaits),
                verdict=self._verdict(move, source),
                give_up=WITHDRAWN if give_up else None,
                fence_recorded=noted,
                waiting_seconds=A_LONG_TIME_SECONDS if waited else 0.0,
            )
        )
        return step

    def _verdict(self, move: Move, source: Observation | None) -> Verdict | None:
        if source is None or source[1] == DOWN:
            return None
        match source[0]:
            case Outgoing.NONE:
                return self._scene.verdict(source[1], move)
            case Outgoing.RELEASED | Outgoing.HEARD | Outgoing.FORGETTING | Outgoing.DONE:
                return Verdict.RELEASED
            case Outgoing.THAWING | Outgoing.OWING | Outgoing.OVER:
                return Verdict.ABORTED
            case _:
                return Verdict.UNDECIDED

    def _source_side(self, move: Move, observation: Observation | None) -> Side:
        if observation is None or observation[1] == DOWN:
            return Side(NODES[move.source], answered=False)
        verdict = self._verdict(move, observation) or Verdict.UNDECIDED
        return self._side(
            move, NODES[move.source], _SOURCE_STATES[observation[0]], observation, verdict
        )

    def _target_side(self, move: Move, observation: Observation | None) -> Side:
        if observation is None or observation[1] == DOWN:
            return Side(NODES[move.target], answered=False)
        state = _TARGET_STATES[observation[0]]
        return self._side(move, NODES[move.target], state, observation, Verdict.UNDECIDED)

    def _side(
        self,
        move: Move,
        node: str,
        state: SideState | None,
        observation: Observation,
        verdict: Verdict,
    ) -> Side:
        _, record, copy = observation
        found = self._scene.ledger.maybe(record)
        report = container = None
        if state is not None:
            report = MigrationReport(
                migration=move.name,
                state=state,
                verdict=verdict,
                strategy=Strategy.POST_COPY if move.follows else Strategy.STOP_AND_COPY,
            )
        if found is not None:
            container = ContainerReport(
                id=ID, namespace=found.namespace, name=found.name, epoch=found.epoch,
                record=found.state, run=RUN_STATES[copy],
            )  # fmt: skip
        return Side(node, answered=True, report=report, container=container)


def _awaiting(side: Side, awaits: bool) -> Side:
    if side.container is None or not awaits:
        return side
    return replace(side, container=side.container.model_copy(update={"awaits_memory": True}))


def _spec(move: Move) -> MigrationSpec:
    return MigrationSpec(
        placement_name="counter",
        placement_uid=ID,
        source_node=NODES[move.source],
        target_node=NODES[move.target],
        epoch=move.epoch,
        attempt=1,
    )


def _step(what: str, move: Move, world: World, *, fair: bool) -> Step:
    return Step(("operator", what, move.name), world, fair)
