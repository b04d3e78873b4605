"""What one pass observes of a migration, and the steps that can follow from it."""

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
    """One agent's answers in this pass.

    answered: the agent answered; where report and container are None it has nothing.

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
    """A request to end the migration, granted as long as the source has not released."""

    outcome: Outcome
    why: Obstacle


@dataclass(frozen=True)
class ObservedMigration:
    """All that the decision about a migration is made from.

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
    """Send the incoming order to the target."""


@dataclass(frozen=True)
class Begin:
    """Send the outgoing order to the source."""


@dataclass(frozen=True)
class AbortSource:
    """Have the source keep the container, also of a migration that has not begun there yet.

    The source's verdict in the next pass says whether it could.
    """


@dataclass(frozen=True)
class AbortTarget:
    """Have the target discard what it prepared."""


@dataclass(frozen=True)
class RelayVerdict:
    """Send the target the verdict of the source's record."""

    verdict: Verdict


@dataclass(frozen=True)
class RecordFence:
    """Write that the source is fenced: from then on the target owns the container."""


@dataclass(frozen=True)
class LoseMemory:
    """Have the target end a copy whose memory can never be complete, and start it anew."""

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
