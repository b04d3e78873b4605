"""Statistics of this agent's past handovers, from which the next one is predicted."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from transship.api.migration import BlackoutPart, StepName
from transship.memory.copy_progress import DEFAULT_HANDOVER_COST, HandoverCost

REMEMBERED = 9
"""Handovers; their median is used, so that a few slow ones change nothing."""

_AFTER_DUMP = (StepName.SYNC_FILES.value, StepName.SEND_STATE.value, StepName.RESTORE.value)
"""The steps that overlap with sending the last pages, besides the dump (StateTransfer)."""
WAIT_FOR_PAGES = "TargetReceivePages"
"""The one part that depends only on how much memory was left."""
SEND_MEMORY = "SendMemory"
BOUND_SHARE = 0.75
"""Where sending pages took more of the steps after the dump, they have waited for pages."""


class HandoverStats:
    """Costs and link rates, in memory: a restarted agent begins with the default again."""

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
        """The link's rate to a node in bytes per second, as measured last."""
        return self._rates.get(node)

    def note_rate(self, node: str, rate: float) -> None:
        if rate > 0:
            self._rates[node] = rate


def cost_of(blackout: float, parts: Sequence[BlackoutPart], *, known: HandoverCost) -> HandoverCost:
    """The cost of one handover without the time that it waited for memory.

    A restore reads pages itself, and waits for those that are still on their way. Time beyond the
    known cost counts as such a wait: as a cost it would let the next handover leave more memory.
    """
    took = {part.name: part.microseconds / 1e6 for part in parts}
    waited = took.get(WAIT_FOR_PAGES, 0.0)
    after_dump = sum(took.get(name, 0.0) for name in _AFTER_DUMP) - waited
    overlap = took.get(StepName.DUMP.value, 0.0) + after_dump
    if took.get(SEND_MEMORY, 0.0) > BOUND_SHARE * after_dump and overlap > known.overlap:
        waited += overlap - known.overlap
        overlap = known.overlap
    return HandoverCost(fixed=max(0.0, blackout - waited), overlap=max(0.0, overlap))
