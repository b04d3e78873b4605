"""Places for moves: whom the end of a move wakes, and that nobody overtakes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fakes.resources import ended, migration
from transship.api.migration import ContainerMigration
from transship.common.errors import Unreachable
from transship.controller.cache import ResourceCache
from transship.controller.limits import FEWEST_MOVES_PER_NODE, MoveLimits
from transship.controller.move_queue import Waiter, beginners

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
        with self.limits.taken(uid, source=source, target=target) as ours:
            if ours:
                self.under_way[uid] = move_of(uid, source, target)
                self.cache.put(self.under_way[uid])
        if not ours:
            self.limits.wait(uid, source=source, target=target)
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


def test_nobody_loses_a_position_by_being_woken_in_vain() -> None:
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
    scene.limits.leave("3")
    assert scene.woken("4") == {"4"}


def test_one_that_cannot_begin_steps_aside_and_keeps_its_position() -> None:
    scene = Scene()
    for uid in ("1", "2"):
        assert scene.asks(uid, "node-a", "node-b")
    for uid in ("3", "4", "5"):
        assert not scene.asks(uid, "node-a", "node-b")
    scene.ends("1")
    with pytest.raises(Unreachable), scene.limits.taken("3", source="node-a", target="node-b"):
        raise Unreachable("the API server is away")
    assert scene.woken("4") == {"4"}
    assert scene.asks("4", "node-a", "node-b")
    assert not scene.asks("3", "node-a", "node-b")
    scene.ends("2")
    assert scene.woken("3", "5") == {"3", "5"} - {"5"}


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
            self.scene.limits.leave(uid)

    @rule(choice=st.integers(0, 99))
    def one_cannot_begin_and_steps_aside_for_now(self, choice: int) -> None:
        if uids := list(self.waiting):
            self.scene.limits.step_aside(uids[choice % len(uids)])
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

    def _can_begin(self, uids: list[str]) -> tuple[Waiter, ...]:
        used = self._used()
        free = {node: FEWEST_MOVES_PER_NODE - used[node] for node in NODES}
        return beginners([Waiter(uid, *self.waiting[uid]) for uid in uids], free=free)

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
