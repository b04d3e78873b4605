"""What is seen of a migration in one pass, and the steps that can follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from transship.agentapi.containers import ContainerReport
from transship.agentapi.migrations import MigrationReport
from transship.agentapi.states import SideState, Verdict
from transship.api.migration import MigrationSpec
from transship.api.obstacle import Obstacle, obstacle
from transship.api.reasons import Reason


class Outcome(StrEnum):
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


@dataclass(frozen=True)
class Side:
    """One agent's answers in this pass. answered: both were got, None means that it knows nothing.

    fenced: an administrator declared that its node runs nothing any more, and it is silent.
    """

    node: str
    answered: bool
    report: MigrationReport | None = None
    container: ContainerReport | None = None
    fenced: bool = False

    @property
    def state(self) -> SideState | None:
        return None if self.report is None else self.report.state


@dataclass(frozen=True)
class GiveUp:
    """A wish to end the migration, to be granted as long as the source has not released."""

    outcome: Outcome
    why: Obstacle


@dataclass(frozen=True)
class ObservedMigration:
    """All that a decision is made from.

    verdict: what the source's record says (Unknown: it has no record of this migration).
    waiting_seconds: for how long source and target have been in their present states.
    order_is_current: the spec has not changed since the source got its last order.
    fence_recorded: it was written down that the target may run without the source's release.
    """

    spec: MigrationSpec
    source: Side
    target: Side
    verdict: Verdict | None = None
    give_up: GiveUp | None = None
    preflight_obstacle: Obstacle | None = None
    order_is_current: bool = True
    fence_recorded: bool = False
    waiting_seconds: float = 0.0


@dataclass(frozen=True)
class Prepare:
    """PUT the incoming order to the target."""


@dataclass(frozen=True)
class Begin:
    """PUT the outgoing order to the source."""


@dataclass(frozen=True)
class AbortSource:
    """Have the source keep the container, also of a move that has not begun there (yet).

    What it then says is its verdict.
    """


@dataclass(frozen=True)
class AbortTarget:
    """Throw away what was prepared."""


@dataclass(frozen=True)
class RelayVerdict:
    """Tell the target what the source's record says."""

    verdict: Verdict


@dataclass(frozen=True)
class RecordFence:
    """Write durably that the source is fenced: from then on the target owns, whoever comes back."""


@dataclass(frozen=True)
class LoseMemory:
    """Have the target end a copy whose memory can never follow completely, to start it anew."""

    why: str


@dataclass(frozen=True)
class Wait:
    seconds: float
    why: Obstacle | None = None


@dataclass(frozen=True)
class Finish:
    outcome: Outcome
    why: Obstacle | None = None


Step = (
    Prepare
    | Begin
    | AbortSource
    | AbortTarget
    | RelayVerdict
    | RecordFence
    | LoseMemory
    | Wait
    | Finish
)


def no_answer(side: Side) -> Obstacle:
    return obstacle(Reason.AGENT_UNREACHABLE, f"the agent of node {side.node} does not answer")
