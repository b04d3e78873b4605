"""The cases of the fault tests: every fault at every step of every strategy.

A case makes the move wait where a step begins. It waits at the source's agent, which leads the
move. It waits at the target's agent for Prepare, and for restore and resume when the fault is the
target's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transship.api.migration import StepName
from transship.api.placement import Strategy
from transship.controller.migration.history import resolve_strategy
from transship.lab.proof.fault import Fault, Side
from transship.lab.proof.fault_catalog import FAULTS

STRATEGIES = tuple(
    strategy
    for strategy in (Strategy.STOP_AND_COPY, Strategy.PRE_COPY, Strategy.POST_COPY)
    if resolve_strategy(strategy, stopped=False)[0] is strategy
)
AFTER_RELEASE = frozenset({StepName.RESUME, StepName.DRAIN, StepName.DESTROY})
BEFORE_WHOLE = frozenset({StepName.RESUME, StepName.DRAIN})
"""After the release, while the source still has memory that the target needs."""
ONLY_IN = {
    StepName.COPY_MEMORY: frozenset({Strategy.PRE_COPY}),
    StepName.DRAIN: frozenset({Strategy.POST_COPY}),
}
# failpoints of the target's agent, for the steps that it takes by itself
AT_TARGET = {
    StepName.PREPARE: "Prepare.begin",
    StepName.RESTORE: "Restore.begin",
    StepName.DECIDE: "Held.write",
    StepName.RESUME: "Running.written",
}


@dataclass(frozen=True)
class Case:
    step: StepName
    fault: Fault
    strategy: Strategy

    @property
    def key(self) -> tuple[str, str, str]:
        return self.step.value, self.fault.name, self.strategy.value

    @property
    def failpoint(self) -> tuple[Side, str]:
        """At whose agent, and at which failpoint, the move waits."""
        own = self.fault.name.startswith("target's") and self.step in AT_TARGET
        if own or self.step is StepName.PREPARE:
            return Side.TARGET, AT_TARGET[self.step]
        return Side.SOURCE, f"{self.step}.begin"

    @property
    def released(self) -> bool:
        """The source had released the container to the target when the fault began."""
        return self.step in AFTER_RELEASE

    @property
    def loses_the_container(self) -> bool:
        """The fault destroys the only copy that could run, or a part of its memory."""
        if self.fault.may_lose_memory:
            return self.released or self.step is StepName.DECIDE
        if self.fault.kills_node is None:
            return False
        split_memory = self.strategy is Strategy.POST_COPY and self.step in BEFORE_WHOLE
        holder = Side.TARGET if self.released else Side.SOURCE
        return split_memory or self.fault.kills_node is holder

    def __str__(self) -> str:
        return f"{self.strategy} {self.step}: {self.fault.name}"


def all_cases() -> Iterator[Case]:
    for strategy in STRATEGIES:
        for step in StepName:
            if strategy in ONLY_IN.get(step, frozenset(Strategy)):
                post_copy = strategy is Strategy.POST_COPY
                yield from (
                    Case(step, fault, strategy)
                    for fault in FAULTS
                    if step in fault.steps or (post_copy and step in fault.post_copy_steps)
                )
