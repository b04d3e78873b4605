"""What the moves of a scenario are called, and what the real functions are asked about them."""

from __future__ import annotations

from fakes.orders import ID, order
from model.rules import NONE, Ledger, Rules
from model.world import DOWN, Copy, Fact, Fencing, Move, Node, World, has, with_fact, with_node
from transship.agent.journal.record import LONG_AGO, OWNED, Record
from transship.agentapi.migrations import (
    IncomingOrder,
    MemoryEndpoint,
    OutgoingOrder,
    Peer,
    VerdictNotice,
)
from transship.agentapi.states import RecordState, Verdict
from transship.api.placement import LastExit, Strategy

NODES = ("node-a", "node-b")
BOOT, EARLIER_BOOT = "now", "before"


class Scene:
    """The moves, and the rules applied to them."""

    def __init__(self, moves: tuple[Move, ...], rules: Rules) -> None:
        self.moves = moves
        self.ledger = Ledger(rules)
        self.rules = rules
        self.names = [move.name for move in moves]

    def start(self) -> World:
        """node-a runs the container."""
        first = self.rules.ordered(None, order(), boot=BOOT).but(started_boot=BOOT)
        number = self.ledger.number(first)
        here = Node(number, number, Copy.RUNNING, 0, False, Fencing.NEVER)
        there = Node(NONE, NONE, Copy.ABSENT, 0, False, Fencing.NEVER)
        idle = (0,) * len(self.moves)
        return World((here, there), idle, idle, (Fact.CREATED, *idle[1:]))

    # Records: each gives the number of the next one, or NONE when the rules refuse.

    def outgoing(self, record: int, move: Move) -> int:
        def rule() -> Record:
            found = self.ledger.record(record)
            self.rules.require_movable(found, _outgoing(move))
            return self.rules.outgoing(found, migration=move.name, peer=_peer(move.target))

        return NONE if record == NONE else self.ledger.next(("outgoing", record, move.number), rule)

    def frozen(self, record: int, move: Move) -> int:
        def rule() -> Record:
            found, peer = self.ledger.record(record), _peer(move.target)
            return self.rules.frozen(found, migration=move.name, peer=peer).but(started_boot=BOOT)

        return self.ledger.next(("frozen", record, move.number), rule)

    def released(self, record: int, move: Move) -> int:
        def rule() -> Record:
            page_server = MemoryEndpoint(address="10.0.0.9", port=1) if move.follows else None
            return self.rules.released(
                self.ledger.record(record), epoch=move.epoch + 1, memory_goes_to=page_server
            )

        return self.ledger.next(("released", record, move.number), rule)

    def memory_sent(self, record: int) -> int:
        def rule() -> Record:
            return self.rules.memory_sent(self.ledger.record(record))

        return self.ledger.next(("memory sent", record), rule)

    def aborted(self, record: int, move: Move) -> int:
        def rule() -> Record:
            return self.rules.aborted(self.ledger.record(record), migration=move.name)

        return self.ledger.next(("aborted", record, move.number), rule)

    def incoming(self, record: int, move: Move, *, floor: int) -> int:
        def rule() -> Record:
            return self.rules.incoming(
                self.ledger.maybe(record), _incoming(move), boot=BOOT, floor=floor
            )

        return self.ledger.next(("incoming", record, move.number, floor), rule)

    def held(self, record: int) -> int:
        def rule() -> Record:
            return self.rules.held(self.ledger.record(record), boot=BOOT)

        return self.ledger.next(("held", record), rule)

    def running(self, record: int, move: Move, verdict: Verdict) -> int:
        def rule() -> Record:
            return self.rules.running(self.ledger.record(record), notice(move, verdict))

        return (
            NONE
            if record == NONE
            else self.ledger.next(("running", record, move.number, verdict), rule)
        )

    def started(self, record: int) -> int:
        def rule() -> Record:
            return self.rules.started(self.ledger.record(record), boot=BOOT, now=LONG_AGO)

        return self.ledger.next(("started", record), rule)

    def restarting(self, record: int) -> int:
        def rule() -> Record:
            end = LastExit(exit_code=-1, time=LONG_AGO, reason="Vanished")
            return self.rules.restarting(self.ledger.record(record), end)

        return self.ledger.next(("restarting", record), rule)

    def ordered(self, record: int, *, epoch: int, floor: int) -> int:
        def rule() -> Record:
            return self.rules.ordered(
                self.ledger.maybe(record), order(epoch=epoch), boot=BOOT, floor=floor
            )

        return self.ledger.next(("ordered", record, epoch, floor), rule)

    def aged(self, record: int) -> int:
        """The same after the node has lost power: nothing of it was ordered or started since."""

        def rule() -> Record:
            found = self.ledger.record(record)
            return found.but(
                ordered_boot=EARLIER_BOOT, started_boot=found.started_boot and EARLIER_BOOT
            )

        return NONE if record == NONE else self.ledger.next(("aged", record), rule)

    # What is known of a record.

    def state(self, record: int) -> RecordState | None:
        found = self.ledger.maybe(record)
        return None if found is None else found.state

    def owned(self, record: int) -> bool:
        return self.state(record) in OWNED

    def is_of(self, record: int, move: Move) -> bool:
        found = self.ledger.maybe(record)
        return found is not None and found.migration == move.name

    def has_arrived(self, record: int, move: Move) -> bool:
        found = self.ledger.maybe(record)
        return found is not None and found.arrived_by == move.name and found.state in OWNED

    def verdict(self, record: int, move: Move) -> Verdict:
        """As the agent's server answers: of the record that knows the migration, if any."""

        def rule() -> Verdict:
            found = self.ledger.maybe(record)
            known = found is not None and move.name in (
                found.migration, found.arrived_by, *found.aborted,
            )  # fmt: skip
            verdict: Verdict = self.rules.verdict(found if known else None, move.name)
            return verdict

        known: Verdict = self.ledger.find(("verdict", record, move.number), rule)
        return known

    def to_discard(self, record: int, move: Move) -> bool:
        def rule() -> bool:
            return bool(self.rules.to_discard(self.ledger.maybe(record), move.name))

        return bool(self.ledger.find(("to_discard", record, move.number), rule))

    def owes_abort(self, record: int, move: Move) -> bool:
        def rule() -> bool:
            return bool(self.rules.owes_abort(self.ledger.maybe(record), move.name))

        return bool(self.ledger.find(("owes_abort", record, move.number), rule))

    def may_be_aborted(self, record: int, move: Move) -> bool:
        """Of a target, by the operator."""

        def rule() -> None:
            self.rules.require_unheld(self.ledger.maybe(record), move.name)

        return self.ledger.allows(("require_unheld", record, move.number), rule)

    def may_be_destroyed(self, record: int) -> bool:
        def rule() -> None:
            found = self.ledger.record(record)
            self.rules.released_to(found)
            self.rules.require_memory_sent(found)

        return record != NONE and self.ledger.allows(("released_to", record), rule)

    def memory_follows(self, record: int) -> bool:
        found = self.ledger.maybe(record)
        return found is not None and found.memory_goes_to is not None

    def awaits_memory(self, world: World, at: int) -> bool:
        """The copy that runs here, or is about to, has pages that only an earlier source has."""
        return world.nodes[at].copy in (Copy.RUNNING, Copy.HELD) and any(
            move.follows
            and move.target == at
            and has(world, move, Fact.ARRIVED)
            and not has(world, move, Fact.WHOLE)
            for move in self.moves
        )

    # Disks.

    def write(self, world: World, at: int, record: int) -> World:
        """Durable, and known to the agent."""
        node = world.nodes[at]._replace(disk=record, memory=record)
        return self.with_known(self.noted(with_node(world, at, node), at), at)

    def write_unnoticed(self, world: World, at: int, record: int) -> World:
        """The disk has it and says that it failed."""
        return self.noted(with_node(world, at, world.nodes[at]._replace(disk=record)), at)

    def noted(self, world: World, at: int) -> World:
        disk = world.nodes[at].disk
        for move, facts in self.ledger.find(("noted", at, disk), lambda: self._facts_of(at, disk)):
            if not has(world, move, facts):
                world = with_fact(world, move, facts)
        return world

    def with_known(self, world: World, at: int) -> World:
        """What the agent knows now, the operator may hear at any time."""
        for move in self.moves:
            if move.target == at and self.has_arrived(world.nodes[at].memory, move):
                world = with_fact(world, move, Fact.KNOWN)
        return world

    def _facts_of(self, at: int, number: int) -> list[tuple[Move, int]]:
        """What a record on the disk of this node proves."""
        record = self.ledger.maybe(number)
        facts = []
        for move in self.moves:
            if record is None:
                continue
            released = record.state is RecordState.RELEASED and record.migration == move.name
            if move.source == at and released:
                facts.append((move, Fact.PROMISED))
            if move.target == at and record.arrived_by == move.name and record.state in OWNED:
                facts.append((move, Fact.ARRIVED))
        return facts

    def is_up(self, world: World, at: int) -> bool:
        return world.nodes[at].memory != DOWN


def notice(move: Move, verdict: Verdict) -> VerdictNotice:
    epoch = move.epoch if verdict is Verdict.ABORTED else move.epoch + 1
    return VerdictNotice(migration=move.name, verdict=verdict, epoch=epoch)


def _peer(at: int) -> Peer:
    return Peer(node=NODES[at], address=f"10.0.0.{at + 1}", endpoint=f"https://10.0.0.{at + 1}")


def _outgoing(move: Move) -> OutgoingOrder:
    return OutgoingOrder(
        migration=move.name,
        container=ID,
        epoch=move.epoch,
        target=_peer(move.target),
        strategy=Strategy.STOP_AND_COPY,
    )


def _incoming(move: Move) -> IncomingOrder:
    return IncomingOrder(
        migration=move.name,
        order=order(epoch=move.epoch + 1),
        source=_peer(move.source),
        strategy=Strategy.STOP_AND_COPY,
    )
