"""The two kinds of strategies, and one object for every name that the API has.

To add a strategy: add its name to `api.placement.Strategy` and its object here. What no field says
yet becomes a new field, which the controller and the agents ask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transship.api.placement import Strategy


@dataclass(frozen=True)
class MigrationStrategy:
    """What the controller and both agents must know of the way in which a container is moved."""

    name: Strategy

    needs_criu: ClassVar[bool]
    """Processes are dumped and restored: nodes, CPUs and the container's state must allow that."""
    ends_instance: ClassVar[bool]
    """The instance ends by its stop signal, and the target starts a new one."""
    copies_memory_in_rounds: bool = False
    """Memory is copied while the container runs, as often as that leaves less for the freeze."""
    memory_follows: bool = False
    """What the target lacks of the memory at the freeze is sent after the resume."""
    keeps_downtime_limit: bool = False
    """A move whose blackout would exceed the limit switches to another way, or fails."""
    begins_as: Strategy | None = None
    """The strategy that a move begins with, where `name` only says how it is chosen."""

    @property
    def copies_shared_memory_ahead(self) -> bool:
        """Memory that processes share is copied before the freeze, and left out of the images."""
        return self.copies_memory_in_rounds or self.memory_follows

    def at_start(self) -> MigrationStrategy:
        """The strategy that a move begins with; what it ends with may be another one."""
        return self if self.begins_as is None else of(self.begins_as)

    def for_container(self, *, stopped: bool) -> MigrationStrategy:
        """The strategy that fits: a stopped container has no memory to be moved."""
        return COLD if stopped else self


@dataclass(frozen=True)
class Live(MigrationStrategy):
    """The processes move: CRIU dumps them on the source and restores them on the target."""

    needs_criu: ClassVar[bool] = True
    ends_instance: ClassVar[bool] = False


@dataclass(frozen=True)
class Cold(MigrationStrategy):
    """Only files move: the container ends on the source and starts anew on the target."""

    needs_criu: ClassVar[bool] = False
    ends_instance: ClassVar[bool] = True


PRE_COPY = Live(Strategy.PRE_COPY, copies_memory_in_rounds=True)
POST_COPY = Live(Strategy.POST_COPY, memory_follows=True)
STOP_AND_COPY = Live(Strategy.STOP_AND_COPY)
AUTO = Live(
    Strategy.AUTO,
    copies_memory_in_rounds=True,
    keeps_downtime_limit=True,
    begins_as=Strategy.PRE_COPY,
)
COLD = Cold(Strategy.COLD)

LIVE = (AUTO, PRE_COPY, POST_COPY, STOP_AND_COPY)

NOT_RUNNING = "the container does not run: its files are moved, it has no memory"
"""Why a move is cold that was ordered as another one."""

_BY_NAME = {strategy.name: strategy for strategy in (*LIVE, COLD)}


def of(name: Strategy) -> MigrationStrategy:
    """The strategy that the API calls by this name."""
    return _BY_NAME[name]


def after_release(*, memory_follows: bool) -> MigrationStrategy:
    """The strategy of a released move of which only the journal is left."""
    return POST_COPY if memory_follows else STOP_AND_COPY
