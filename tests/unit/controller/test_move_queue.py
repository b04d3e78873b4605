"""Who of the queue of moves can begin."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from transship.controller.move_queue import Waiter, beginners, full_nodes

NODES = ("a", "b", "c", "d")

pairs = st.permutations(NODES).map(lambda nodes: (nodes[0], nodes[1]))
queues = st.lists(st.tuples(pairs, st.booleans()), max_size=12).map(
    lambda found: [Waiter(str(n), *pair, aside=aside) for n, (pair, aside) in enumerate(found)]
)
places = st.fixed_dictionaries({node: st.integers(-1, 4) for node in NODES})


def test_one_that_cannot_begin_holds_up_nobody_who_can() -> None:
    waiting = [Waiter("1", "a", "b"), Waiter("2", "c", "d"), Waiter("3", "a", "d")]
    free = {"a": 1, "b": 0, "c": 1, "d": 2}
    assert [w.uid for w in beginners(waiting, free=free)] == ["2", "3"]


def test_the_first_in_the_queue_gets_the_place_that_two_want() -> None:
    waiting = [Waiter("1", "a", "b"), Waiter("2", "a", "c")]
    free = {"a": 1, "b": 1, "c": 1}
    assert [w.uid for w in beginners(waiting, free=free)] == ["1"]
    assert full_nodes(waiting[:1], free=free) == {"a", "b"}


@given(queues, places)
def test_no_node_gets_more_moves_than_it_has_places(
    waiting: list[Waiter], free: dict[str, int]
) -> None:
    ready = beginners(waiting, free=free)
    used = Counter(node for w in ready for node in (w.source, w.target))
    assert all(used[node] <= max(0, free[node]) for node in NODES)


@given(queues, places)
def test_whoever_waits_lacks_a_place_that_free_ones_and_those_ahead_leave(
    waiting: list[Waiter], free: dict[str, int]
) -> None:
    ready = beginners(waiting, free=free)
    for place, waiter in enumerate(waiting):
        full = full_nodes(waiting[:place], free=free)
        assert (waiter in ready) == (not waiter.aside and not {waiter.source, waiter.target} & full)


@given(queues, places)
def test_nobody_behind_changes_whether_one_can_begin(
    waiting: list[Waiter], free: dict[str, int]
) -> None:
    for end in range(len(waiting)):
        assert beginners(waiting, free=free)[: len(beginners(waiting[:end], free=free))] == (
            beginners(waiting[:end], free=free)
        )
