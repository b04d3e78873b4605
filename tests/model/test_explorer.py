"""The handover's promises in every state that two agents can get into, and that breaking a rule is
noticed.
"""

from __future__ import annotations

import pytest

from model.explorer import AGAIN, BACK, POST_COPY, THERE, Bounds, Explorer
from model.mutants import MUTANTS

SCENES = {
    "a post-copy": Bounds((POST_COPY,), power_fails=False),
    "one move, where disks and power fail": Bounds((THERE,)),
    "a move that is tried again": Bounds((THERE, AGAIN), disks_fail=False, power_fails=False),
    "a move there and back": Bounds((THERE, BACK), disks_fail=False, power_fails=False),
}


@pytest.mark.parametrize("bounds", SCENES.values(), ids=SCENES.keys())
def test_never_two_copies_and_in_the_end_exactly_one(bounds: Bounds) -> None:
    explorer = Explorer(bounds)
    violation = explorer.explore()
    assert violation is None, str(violation)
    assert len(explorer.worlds) > 3_000  # a model that can do little proves little


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str) -> None:
    rules, bounds = MUTANTS[name]
    violation = Explorer(bounds, rules).explore()
    assert violation is not None
    print(violation)
