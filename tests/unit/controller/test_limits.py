"""Places for moves: which of the queue can begin, whom the end of a move wakes, and fairness."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fakes.resources import ended, migration
from transship.api.migration import ContainerMigration
from transship.common.errors import Unreachable
from transship.controller.cache import ResourceCache
from transship.controller.limits import (
    FEWEST_MOVES_PER_NODE,
    MOVES_WITHOUT_THROTTLE,
    MoveLimits,
    QueuedMove,
    full_nodes,
    startable,
)

NODES = ("node-a", "node-b", "node-c", "node-d")


def move_of(uid: str, source: str, target: str) -> ContainerMigration:
    made = migration(source=source, target=target)
    meta = made.metadata.model_copy(update={"uid": f"move-{uid}", "name": f"move-{uid}"})
    spec = made.spec.model_copy(update={"placement_uid": uid})
    return made.model_copy(update={"metadata": meta, "spec": spec})


class Scene:
    """MoveLimits, and the placements that begin and end moves by them."""

    def __init__(self) -> None:
        self.cache = ResourceCache()
        self.limits = MoveLimits(self.cache)
        self.under_way: dict[str, ContainerMigration] = {}

    def asks(self, uid: str, source: str, target: str) -> bool:
        """What a placement's pass does: begin, or stand in line."""
        self.cache.wake_of(uid).clear()
        with self.limits.reserve(uid, source=source, target=target) as ours:
            if ours:
                self.under_way[uid] = move_of(uid, source, target)
                self.cache.put(self.under_way[uid])
        if not ours:
            self.limits.enqueue(uid, source=source, target=target)
        return ours

    def ends(self, uid: str) -> None:
        self.cache.put(ended(self.under_way.pop(uid), good=True))
        self.limits.wake()

    def woken(self, *uids: str) -> set[str]:
        return {uid for uid in uids if self.cache.wake_of(uid).is_set()}


def test_the_end_of_a_move_wakes_the_first_that_can_begin_and_not_the_first_that_wait() -> None:
    scene = Scene()
    for uid in ("1", "2"):
        assert scene.asks(uid, "node-a", "node-b")
    for uid in ("3", "4"):
        assert scene.asks(uid, "node-c", "node-d")
    for uid in ("5", "6", "7"):
        assert not scene.asks(uid, "node-a", "node-b")
    assert not scene.asks("8", "node-c", "node-d")
    scene.ends("3")
    assert scene.woken("5", "6", "7", "8") == {"8"}
    assert scene.asks("8", "node-c", "node-d")


def test_a_woken_one_that_was_slow_is_not_overtaken_by_one_that_comes_later() -> None:
    scene = Scene()
    for uid in ("1", "2"):
        assert scene.asks(uid, "node-a", "node-b")
    assert not scene.asks("3", "node-a", "node-b")
    scene.ends("1")
    assert scene.woken("3") == {"3"}
    assert not scene.asks("late", "node-a", "node-b")
    assert scene.asks("3", "node-a", "node-b")


def test_no_move_loses_its_position_by_being_woken_too_early() -> None:
    scene = Scene()
    for uid in ("1", "2"):
        assert scene.asks(uid, "node-a", "node-b")
    for uid in ("3", "4"):
        assert not scene.asks(uid, "node-a", "node-b")
    assert not scene.asks("3", "node-a", "node-b")  # woken by something else meanwhile
    scene.ends("1")
    assert scene.woken("3", "4") == {"3"}


def test_one_that_wants_no_move_any_more_leaves_its_place_to_the_next() -> None:
    scene = Scene()
    for uid in ("1", "2"):
        assert scene.asks(uid, "node-a", "node-b")
    for uid in ("3", "4"):
        assert not scene.asks(uid, "node-a", "node-b")
    scene.ends("1")
    scene.limits.dequeue("3")
    assert scene.woken("4") == {"4"}


def test_a_move_that_cannot_begin_is_postponed_and_keeps_its_position() -> None:
    scene = Scene()
    for uid in ("1", "2"):
        assert scene.asks(uid, "node-a", "node-b")
    for uid in ("3", "4", "5"):
        assert not scene.asks(uid, "node-a", "node-b")
    scene.ends("1")
    with pytest.raises(Unreachable), scene.limits.reserve("3", source="node-a", target="node-b"):
        raise Unreachable("the API server is away")
    assert scene.woken("4") == {"4"}
    assert scene.asks("4", "node-a", "node-b")
    assert not scene.asks("3", "node-a", "node-b")
    scene.ends("2")
    assert scene.woken("3", "5") == {"3", "5"} - {"5"}


ENDS = ("a", "b", "c", "d")

pairs = st.permutations(ENDS).map(lambda nodes: (nodes[0], nodes[1]))
queues = st.lists(st.tuples(pairs, st.booleans()), max_size=12).map(
    lambda moves: [
        QueuedMove(str(n), *pair, postponed=postponed) for n, (pair, postponed) in enumerate(moves)
    ]
)
places = st.fixed_dictionaries({node: st.integers(-1, 4) for node in ENDS})


def test_a_move_that_cannot_begin_blocks_none_that_can() -> None:
    queue = [QueuedMove("1", "a", "b"), QueuedMove("2", "c", "d"), QueuedMove("3", "a", "d")]
    free = {"a": 1, "b": 0, "c": 1, "d": 2}
    assert [move.uid for move in startable(queue, free=free)] == ["2", "3"]


def test_the_first_in_the_queue_gets_the_place_that_two_want() -> None:
    queue = [QueuedMove("1", "a", "b"), QueuedMove("2", "a", "c")]
    free = {"a": 1, "b": 1, "c": 1}
    assert [move.uid for move in startable(queue, free=free)] == ["1"]
    assert full_nodes(queue[:1], free=free) == {"a", "b"}


@given(queues, places)
def test_no_node_gets_more_moves_than_it_has_places(
    queue: list[QueuedMove], free: dict[str, int]
) -> None:
    moves = startable(queue, free=free)
    used = Counter(node for move in moves for node in (move.source, move.target))
    assert all(used[node] <= max(0, free[node]) for node in ENDS)


@given(queues, places)
def test_whoever_waits_lacks_a_place_that_free_ones_and_those_ahead_leave(
    queue: list[QueuedMove], free: dict[str, int]
) -> None:
    moves = startable(queue, free=free)
    for place, move in enumerate(queue):
        full = full_nodes(queue[:place], free=free)
        assert (move in moves) == (not move.postponed and not {move.source, move.target} & full)


@given(queues, places)
def test_no_move_behind_changes_whether_one_can_begin(
    queue: list[QueuedMove], free: dict[str, int]
) -> None:
    for end in range(len(queue)):
        assert startable(queue, free=free)[: len(startable(queue[:end], free=free))] == (
            startable(queue[:end], free=free)
        )


class Fairness(RuleBasedStateMachine):
    """Moves are asked for and end in any order; placements pass when woken, or for no reason."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.waiting: dict[str, tuple[str, str]] = {}
        self.count = 0

    @rule(nodes=st.permutations(NODES))
    def somebody_new_asks(self, nodes: list[str]) -> None:
        self.count += 1
        self._ask(str(self.count), nodes[0], nodes[1])

    @rule(choice=st.integers(0, 99))
    def a_move_ends(self, choice: int) -> None:
        if uids := list(self.scene.under_way):
            self.scene.ends(uids[choice % len(uids)])

    @rule(choice=st.integers(0, 99))
    def one_asks_again(self, choice: int) -> None:
        if uids := list(self.waiting):
            uid = uids[choice % len(uids)]
            self._ask(uid, *self.waiting[uid])

    @rule(choice=st.integers(0, 99))
    def one_leaves(self, choice: int) -> None:
        if uids := list(self.waiting):
            uid = uids[choice % len(uids)]
            del self.waiting[uid]
            self.scene.limits.dequeue(uid)

    @rule(choice=st.integers(0, 99))
    def one_cannot_begin_and_is_postponed(self, choice: int) -> None:
        if uids := list(self.waiting):
            self.scene.limits.postpone(uids[choice % len(uids)])
            uid = uids[choice % len(uids)]
            self._ask(uid, *self.waiting[uid])

    def _ask(self, uid: str, source: str, target: str) -> None:
        uids = list(self.waiting)
        ahead = uids[: uids.index(uid)] if uid in uids else uids
        could_begin = self._can_begin(ahead)
        if self.scene.asks(uid, source, target):
            assert self._can_begin(ahead) == could_begin
            self.waiting.pop(uid, None)
        else:
            self.waiting[uid] = (source, target)

    def _can_begin(self, uids: list[str]) -> tuple[QueuedMove, ...]:
        used = self._used()
        free = {node: FEWEST_MOVES_PER_NODE - used[node] for node in NODES}
        return startable([QueuedMove(uid, *self.waiting[uid]) for uid in uids], free=free)

    def _used(self) -> Counter[str]:
        pairs = [(m.spec.source_node, m.spec.target_node) for m in self.scene.under_way.values()]
        return Counter(node for pair in pairs for node in pair)

    @invariant()
    def no_node_takes_part_in_more_than_it_may(self) -> None:
        assert all(count <= FEWEST_MOVES_PER_NODE for count in self._used().values())

    @invariant()
    def the_first_that_can_begin_is_awake(self) -> None:
        used = self._used()
        for uid, (source, target) in self.waiting.items():
            if all(used[node] < FEWEST_MOVES_PER_NODE for node in (source, target)):
                assert self.scene.woken(uid), f"{uid} could begin, and sleeps"
                return


TestFairness = Fairness.TestCase
TestFairness.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_many_migrations_of_one_process_are_polled_less_often() -> None:
    limits = MoveLimits(ResourceCache())
    assert limits.poll_factor() == 1.0
    with ExitStack() as stack:
        for count in range(2 * MOVES_WITHOUT_THROTTLE):
            stack.enter_context(limits.running(f"move-{count}"))
        assert limits.poll_factor() == 2.0
    assert limits.poll_factor() == 1.0
