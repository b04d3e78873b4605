"""What this agent's past handovers took, as a ground for predicting the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from transship.api.migration import BlackoutPart, StepName
from transship.memory.copy_progress import DEFAULT_HANDOVER_COST, HandoverCost

REMEMBERED = 9
"""Handovers; the median of them is told, so that a few slow ones change nothing."""

_AFTER_DUMP = (StepName.SYNC_FILES.value, StepName.SEND_STATE.value, StepName.RESTORE.value)
"""What the last pages are sent at the same time as, besides the dump; see way_forward."""
WAIT_FOR_PAGES = "TargetReceivePages"
"""The one part that depends on nothing but how much memory was left."""
SEND_MEMORY = "SendMemory"
BOUND_SHARE = 0.75
"""Where sending the pages took so much of what follows the dump, that has waited for it."""


class HandoverStats:
    """Kept in memory: a restarted agent begins with the default again."""

    def __init__(self) -> None:
        self._costs: deque[HandoverCost] = deque(maxlen=REMEMBERED)
        self._rates: dict[str, float] = {}

    @property
    def cost(self) -> HandoverCost:
        if not self._costs:
            return DEFAULT_HANDOVER_COST
        return HandoverCost(
            fixed=median(cost.fixed for cost in self._costs),
            overlap=median(cost.overlap for cost in self._costs),
        )

    def note(self, *, blackout: float, parts: Iterable[BlackoutPart]) -> None:
        self._costs.append(cost_of(blackout, tuple(parts), known=self.cost))

    def rate_to(self, node: str) -> float | None:
        """Bytes per second that went there last."""
        return self._rates.get(node)

    def note_rate(self, node: str, rate: float) -> None:
        if rate > 0:
            self._rates[node] = rate


def cost_of(blackout: float, parts: Sequence[BlackoutPart], *, known: HandoverCost) -> HandoverCost:
    """The cost of one handover without what it waited for memory.

    A restore wants pages itself, and waits for those that are still under way. What it takes longer
    than is known is then no cost of its own: else the next handover would leave so much the more.
    """
    took = {part.name: part.microseconds / 1e6 for part in parts}
    waited = took.get(WAIT_FOR_PAGES, 0.0)
    after_dump = sum(took.get(name, 0.0) for name in _AFTER_DUMP) - waited
    overlap = took.get(StepName.DUMP.value, 0.0) + after_dump
    if took.get(SEND_MEMORY, 0.0) > BOUND_SHARE * after_dump and overlap > known.overlap:
        waited += overlap - known.overlap
        overlap = known.overlap
    return HandoverCost(fixed=max(0.0, blackout - waited), overlap=max(0.0, overlap))
