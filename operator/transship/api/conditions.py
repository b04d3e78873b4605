"""Conditions, with the fields of metav1.Condition, and how they are set.

The transition time of a condition changes only when its status changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from transship.api.base import ApiModel, Int64, Time, list_map


class Status(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One observed aspect of a resource, with the fields of metav1.Condition."""

    type: Annotated[str, Field(max_length=316)]
    status: Status
    reason: Annotated[
        str, Field(max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    ]
    message: Annotated[str, Field(max_length=32768)] = ""
    observed_generation: Int64 = 0
    last_transition_time: Time


Conditions = Annotated[tuple[Condition, ...], Field(**list_map("type", max_items=32))]


def find(conditions: Sequence[Condition], kind: str) -> Condition | None:
    return next((c for c in conditions if c.type == kind), None)


def is_true(conditions: Sequence[Condition], kind: str) -> bool:
    present = find(conditions, kind)
    return present is not None and present.status == Status.TRUE


def with_condition(existing: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """Replace the condition of the same type. Keeps its transition time if the status is equal."""
    previous = find(existing, new.type)
    if previous is not None and previous.status == new.status:
        new = new.model_copy(update={"last_transition_time": previous.last_transition_time})
    return tuple(sorted([*(c for c in existing if c.type != new.type), new], key=lambda c: c.type))


def without(existing: Sequence[Condition], kind: str) -> tuple[Condition, ...]:
    return tuple(c for c in existing if c.type != kind)


def condition(
    kind: str,
    status: Status | bool,
    *,
    reason: str,
    message: str = "",
    generation: int = 0,
    now: datetime,
) -> Condition:
    """Build a condition. The status may be given as a bool. A long message is cut."""
    if isinstance(status, bool):
        status = Status.TRUE if status else Status.FALSE
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message[:32768],
        observed_generation=generation,
        last_transition_time=now,
    )
