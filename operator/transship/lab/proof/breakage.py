"""What is known of one thing that is broken on purpose (see breakages for all of them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from transship.api.migration import StepName
from transship.common.errors import TransshipError
from transship.lab.proof.scene import Scene, Side

Act = Callable[[Scene], object]


class Missed(TransshipError):
    """Nothing was there to be broken."""


class Ending(Enum):
    """How a disturbed move may end, where that does not follow from the step alone."""

    ANY = "any"
    STAYS = "stays"  # before the release; after it the move cannot be called back
    DELETED = "deleted"


@dataclass(frozen=True)
class Breakage:
    """One thing that goes wrong."""

    name: str
    do: Act
    undo: Act = lambda _: None
    seconds: float = 0.0
    dies: Side | None = None  # the node that ends with all that runs on it
    may_lose_memory: bool = False  # of a copy that has none but what its page server gives
    steps: frozenset[StepName] = frozenset(StepName)  # at which it means something
    ending: Ending = Ending.ANY
    lead_seconds: float = 0.0  # in which its word spreads before the move goes on
    post_copy_steps: frozenset[StepName] = frozenset()  # and at which in a post-copy
