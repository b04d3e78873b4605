"""The progress of a move in percent. Pure.

A step that has begun stays in the agent's report and in the status. So the percentage never falls
within one attempt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from transship.api.migration import Step, StepName

MOST_UNFINISHED = 99
"""100 is reserved for a move that has succeeded."""

PERCENT_AT_BEGIN: Mapping[StepName, int] = {
    StepName.PREPARE: 5,
    StepName.COPY_FILES: 10,
    StepName.COPY_MEMORY: 30,
    StepName.AWAIT_TURN: 55,
    StepName.FREEZE: 60,
    StepName.DUMP: 65,
    StepName.SYNC_FILES: 70,
    StepName.SEND_STATE: 75,
    StepName.RESTORE: 80,
    StepName.DECIDE: 90,
    StepName.RESUME: 95,
    StepName.DRAIN: 97,
    StepName.DESTROY: 99,
}


def percent_of(steps: Iterable[Step]) -> int:
    """Return the percentage of the last step that has begun, whether it has ended or not."""
    return max((PERCENT_AT_BEGIN[step.name] for step in steps), default=0)
