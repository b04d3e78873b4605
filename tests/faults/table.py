"""The table of cases: every fault at every step of every strategy.

A case stops the move where a step begins: at the source's agent, which leads, except for what the
target does by itself (Prepare, and its own restore and resume when it is the target that breaks).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from transship.api.migration import StepName
from transship.api.placement import Strategy
from transship.controller.migration.history import resolve_strategy
from transship.lab.proof.breakage import Breakage
from transship.lab.proof.breakages import BREAKAGES
from transship.lab.proof.scene import Side

STRATEGIES = tuple(
    strategy
    for strategy in (Strategy.STOP_AND_COPY, Strategy.PRE_COPY, Strategy.POST_COPY)
    if resolve_strategy(strategy, stopped=False)[0] is strategy
)
AFTER_RELEASE = frozenset({StepName.RESUME, StepName.DRAIN, StepName.DESTROY})
BEFORE_WHOLE = frozenset({StepName.RESUME, StepName.DRAIN})
"""Released, while memory that follows is still at the source."""
ONLY_IN = {
    StepName.COPY_MEMORY: frozenset({Strategy.PRE_COPY}),
    StepName.DRAIN: frozenset({Strategy.POST_COPY}),
}
# where the target stands when the step is its own and it is the one that breaks
AT_TARGET = {
    StepName.PREPARE: "Prepare.begin",
    StepName.RESTORE: "Restore.begin",
    StepName.DECIDE: "Held.write",
    StepName.RESUME: "Running.written",
}


@dataclass(frozen=True)
class Case:
    step: StepName
    breakage: Breakage
    strategy: Strategy

    @property
    def key(self) -> tuple[str, str, str]:
        return self.step.value, self.breakage.name, self.strategy.value

    @property
    def place(self) -> tuple[Side, str]:
        """At whose agent the move stands still, and where in its work."""
        own = self.breakage.name.startswith("target's") and self.step in AT_TARGET
        if own or self.step is StepName.PREPARE:
            return Side.TARGET, AT_TARGET[self.step]
        return Side.SOURCE, f"{self.step}.begin"

    @property
    def released(self) -> bool:
        """The source had promised the container to the target when it broke."""
        return self.step in AFTER_RELEASE

    @property
    def loses_the_container(self) -> bool:
        """What died had the only copy that could still run, or a part of its memory."""
        if self.breakage.may_lose_memory:
            return self.released or self.step is StepName.DECIDE
        if self.breakage.dies is None:
            return False
        follows = self.strategy is Strategy.POST_COPY and self.step in BEFORE_WHOLE
        holder = Side.TARGET if self.released else Side.SOURCE
        return follows or self.breakage.dies is holder

    def __str__(self) -> str:
        return f"{self.strategy} {self.step}: {self.breakage.name}"


def all_cases() -> Iterator[Case]:
    for strategy in STRATEGIES:
        for step in StepName:
            if strategy in ONLY_IN.get(step, frozenset(Strategy)):
                more = strategy is Strategy.POST_COPY
                yield from (
                    Case(step, breakage, strategy)
                    for breakage in BREAKAGES
                    if step in breakage.steps or (more and step in breakage.post_copy_steps)
                )
