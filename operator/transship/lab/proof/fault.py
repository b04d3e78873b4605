"""What describes a fault, and the migration that it disturbs. The faults are in fault_catalog."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path

from transship.api.migration import StepName
from transship.common.errors import TransshipError
from transship.lab.proof import fault_injection
from transship.lab.proof.resources import LabResources
from transship.lab.state import LabState, load_state


class Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True)
class Move:
    """A placement on its way from one node to another. `container` is the placement's uid."""

    resources: LabResources
    directory: Path
    placement: str
    container: str
    source: str
    target: str

    @property
    def state(self) -> LabState:
        """The lab's record, read anew."""
        return load_state(self.directory)

    def node(self, side: Side) -> str:
        return self.source if side is Side.SOURCE else self.target

    def agent(self, side: Side) -> fault_injection.Target:
        return fault_injection.Target(fault_injection.Kind.AGENT, self.node(side))

    def power(self, side: Side) -> fault_injection.Target:
        return fault_injection.Target(fault_injection.Kind.NODE, self.node(side))


Action = Callable[[Move], object]


class NotTriggered(TransshipError):
    """The fault never took effect, so the test proves nothing."""


class Outcome(Enum):
    """How a move may end under a fault, where the step alone does not decide it."""

    ANY = "any"
    # only before the release: from then on nobody can call the move back
    AT_SOURCE = "at source"
    DELETED = "deleted"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. `recover` may run more than once, and without `inject`."""

    name: str
    inject: Action
    recover: Action = lambda _: None
    duration_seconds: float = 0.0
    kills_node: Side | None = None
    """The node that ends, with every process on it."""
    may_lose_memory: bool = False
    """A copy that gets its memory from the page server alone may end."""
    steps: frozenset[StepName] = frozenset(StepName)
    """The steps at which the fault can take effect."""
    post_copy_steps: frozenset[StepName] = frozenset()
    """Further such steps of a post-copy move."""
    outcome: Outcome = Outcome.ANY
    lead_seconds: float = 0.0
    """How long the move stands still after the injection."""
