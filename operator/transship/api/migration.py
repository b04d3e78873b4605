"""ContainerMigration: one move of one placement, made by the operator and kept as history."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from transship.api.base import (
    ApiModel,
    Int32,
    Int64,
    LongText,
    MicroTime,
    ObjectName,
    Percent,
    Resource,
    ShortText,
    Text,
    int32,
    list_map,
    rule,
    rules,
)
from transship.api.conditions import Conditions
from transship.api.placement import MigrationSettings, Strategy


class MigrationSpec(ApiModel):
    """One move, as it was decided. Immutable."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self == oldSelf",
                "spec must not change: delete the migration to cancel it, and edit the placement's"
                " spec.targetNode for another move",
            ),
            rule(
                "self.sourceNode != self.targetNode",
                "targetNode must be another node than sourceNode",
            ),
        )
    )

    placement_name: ObjectName
    """The placement, of the same namespace."""
    placement_uid: Annotated[ShortText, Field(alias="placementUID")]
    source_node: ObjectName
    target_node: ObjectName
    epoch: Annotated[int, int32(1, 2**31 - 1)]
    """The source's: the target becomes owner number epoch + 1."""
    attempt: Annotated[int, int32(1, 1000)] = 1
    """Counts the tries of the same move."""
    settings: MigrationSettings = MigrationSettings()
    """The placement's spec.migration when the move was decided."""


class MigrationPhase(StrEnum):
    """Derived from the conditions and the sides' reports, for people; never read back."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    COPYING = "Copying"
    AWAITING_TURN = "AwaitingTurn"
    HANDING_OVER = "HandingOver"
    DRAINING = "Draining"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def finished(self) -> bool:
        return self in {self.SUCCEEDED, self.FAILED, self.CANCELLED}


class StepName(StrEnum):
    """Every step of a move, in order; the same names in journals, metrics and fault tests."""

    PREPARE = "Prepare"  # image, root file system, network, preflight on the target
    COPY_FILES = "CopyFiles"  # writable layer and volumes, while the container runs
    COPY_MEMORY = "CopyMemory"  # pre-copy rounds
    AWAIT_TURN = "AwaitTurn"  # other containers of the source are handed over first
    FREEZE = "Freeze"  # divert packets, stop all tasks
    DUMP = "Dump"  # CRIU's dump; memory goes to the target
    SYNC_FILES = "SyncFiles"  # what changed in the files since the copy
    SEND_STATE = "SendState"  # the small images of the dump
    RESTORE = "Restore"  # CRIU's restore, held
    DECIDE = "Decide"  # the source's durable verdict
    RESUME = "Resume"  # run, let packets through, announce
    DRAIN = "Drain"  # post-copy: the pages still at the source
    DESTROY = "Destroy"  # the frozen copy


class Step(ApiModel):
    """When a step began, and how long it took."""

    name: StepName
    start_time: MicroTime
    milliseconds: Int64 | None = None
    """Unset while it lasts."""


class SideStatus(ApiModel):
    """What one side last reported."""

    node: ObjectName
    state: ShortText = ""
    """The state in that side's journal."""
    reason: ShortText = ""
    message: Text = ""
    hint: Text = ""


class Round(ApiModel):
    """One round of pre-copy."""

    number: Int32
    bytes: Int64
    """What it sent."""
    dirty_bytes: Int64 = 0
    """What the container had changed when it ended; 0 where the kernel does not tell."""
    milliseconds: Int64


class Prediction(ApiModel):
    """What was expected before the freeze."""

    strategy: Strategy
    blackout_milliseconds: Int32
    total_milliseconds: Int64
    bytes: Int64
    explanation: Text = ""


class MemoryTraffic(ApiModel):
    """What the memory was on its way."""

    page_bytes: Int64
    """Pages sent, again and again where they changed; those of zeros are not among them."""
    zero_page_bytes: Int64 = 0
    """Pages of zeros, which only their number was sent of."""
    wire_bytes: Int64
    """What was sent for all of them."""
    compressed_percent: Percent | None = None
    """What compression has left of the pages; unset where nothing was to be compressed."""


class BlackoutPart(ApiModel):
    """One part of the blackout."""

    name: ShortText
    microseconds: Int64


class MigrationStatus(ApiModel):
    """Observed; source and target are each written from that side's report only."""

    conditions: Conditions = ()
    """Succeeded is the summary: True, False, or Unknown while the move is under way."""
    observed_generation: Int64 = 0
    """The metadata.generation that this status speaks of."""
    phase: MigrationPhase | None = None
    strategy: Strategy | None = None
    """The one that is used."""
    percent: Percent = 0
    """By the furthest step that has begun. It never falls, and is 100 only when the move has
    succeeded. Another attempt is another ContainerMigration (spec.attempt) and begins at 0."""
    steps: Annotated[tuple[Step, ...], Field(**list_map("name", max_items=32))] = ()
    source: SideStatus | None = None
    target: SideStatus | None = None
    rounds: Annotated[tuple[Round, ...], Field(**list_map("number", max_items=64))] = ()
    prediction: Prediction | None = None
    """What was expected of the handover, written down before the freeze."""
    memory: MemoryTraffic | None = None
    start_time: MicroTime | None = None
    completion_time: MicroTime | None = None
    blackout_milliseconds: Int32 | None = None
    """The time in which no copy of the container ran."""
    blackout_parts: Annotated[
        tuple[BlackoutPart, ...], Field(**list_map("name", max_items=64))
    ] = ()
    total_milliseconds: Int64 | None = None
    bytes: Int64 | None = None
    """What the source sent."""
    reason: ShortText | None = None
    message: Text | None = None
    hint: Text | None = None
    """What the user can do."""
    log_tail: LongText | None = None
    """The end of CRIU's log, when it failed."""


class ContainerMigration(Resource):
    """One move; deleting it while it runs cancels it, unless the source has released its copy."""

    spec: MigrationSpec
    status: MigrationStatus = MigrationStatus()
