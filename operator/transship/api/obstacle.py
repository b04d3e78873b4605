"""Obstacle: why something cannot be done now, as a stable reason and a message for people."""

from __future__ import annotations

from dataclasses import dataclass

from transship.api.placement import Strategy
from transship.api.reasons import Reason
from transship.common.errors import TransshipError


@dataclass(frozen=True)
class Obstacle:
    """One obstacle.

    final: nothing is tried again until the spec changes.
    strategies: the live strategies that it prevents; empty: all of them.
    culprit: identifies the obstacle where its message has a value that changes, such as a size.
    """

    reason: str
    message: str
    hint: str = ""
    final: bool = False
    strategies: tuple[Strategy, ...] = ()
    culprit: str = ""

    @property
    def text(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def concerns(self, strategy: Strategy) -> bool:
        return not self.strategies or strategy in self.strategies

    def is_same(self, other: Obstacle) -> bool:
        """Whether both are about the same thing, although their messages may differ."""
        return (self.reason, self.culprit or self.message) == (
            other.reason,
            other.culprit or other.message,
        )


def obstacle(reason: Reason, message: str, *, hint: str = "", final: bool = False) -> Obstacle:
    """Return an obstacle with the hint of its reason, unless a better one is given."""
    return Obstacle(reason.value, message, hint or reason.hint, final)


def from_error(error: TransshipError) -> Obstacle:
    return Obstacle(error.reason, error.message, error.hint)
