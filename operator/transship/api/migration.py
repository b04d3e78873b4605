"""ContainerMigration: one move of one placement. The operator creates it and keeps it as history.

`StepName` lists the steps of a move.
"""

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
    """One move as the operator decided it. Immutable."""

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
    """The placement, in the same namespace."""
    placement_uid: Annotated[ShortText, Field(alias="placementUID")]
    source_node: ObjectName
    target_node: ObjectName
    epoch: Annotated[int, int32(1, 2**31 - 1)]
    """The epoch of the source. The target gets epoch + 1."""
    attempt: Annotated[int, int32(1, 1000)] = 1
    """The number of this attempt of the same move."""
    settings: MigrationSettings = MigrationSettings()
    """The placement's spec.migration at the time when the move was decided."""


class MigrationPhase(StrEnum):
    """A summary of the conditions and the agents' reports for people. The operator never reads it.

    Draining: the container runs on the target, and its memory follows (post-copy).
    """

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
    """Every step of a move, in order. Journals, metrics and fault tests use the same names."""

    # the target prepares image, root file system and network
    PREPARE = "Prepare"
    # the writable layer and the volumes are copied while the container runs
    COPY_FILES = "CopyFiles"
    # pre-copy rounds
    COPY_MEMORY = "CopyMemory"
    # other containers of the source are handed over first
    AWAIT_TURN = "AwaitTurn"
    # packets are diverted, and all tasks are frozen
    FREEZE = "Freeze"
    # CRIU dumps; the changed memory is sent at the same time
    DUMP = "Dump"
    # changes of the files since the copy are sent
    SYNC_FILES = "SyncFiles"
    # CRIU's images are sent
    SEND_STATE = "SendState"
    # CRIU restores, and the copy is held
    RESTORE = "Restore"
    # the source writes Released: the point of no return
    DECIDE = "Decide"
    # the target's copy runs, packets pass, the address is announced
    RESUME = "Resume"
    # post-copy: the source pushes the pages that are missing
    DRAIN = "Drain"
    # the source destroys its frozen copy
    DESTROY = "Destroy"


class Step(ApiModel):
    """A step of the move: when it began, and how long it took."""

    name: StepName
    start_time: MicroTime
    milliseconds: Int64 | None = None
    """The duration. Unset while the step lasts."""


class SideStatus(ApiModel):
    """The last report of one side, the source's or the target's agent."""

    node: ObjectName
    state: ShortText = ""
    """The state of the container's record in that agent's journal."""
    reason: ShortText = ""
    message: Text = ""
    hint: Text = ""


class Round(ApiModel):
    """One round of pre-copy."""

    number: Int32
    bytes: Int64
    """The bytes that the round sent."""
    dirty_bytes: Int64 = 0
    """The bytes that the container changed during the round. 0 where the kernel does not tell."""
    milliseconds: Int64


class Prediction(ApiModel):
    """The prediction of the handover, made before the freeze."""

    strategy: Strategy
    blackout_milliseconds: Int32
    total_milliseconds: Int64
    bytes: Int64
    explanation: Text = ""


class MemoryTraffic(ApiModel):
    """The memory that was sent."""

    page_bytes: Int64
    """The bytes of all pages that were sent. A page counts each time. Zero pages do not count."""
    zero_page_bytes: Int64 = 0
    """The bytes of zero pages. Only their page numbers are sent."""
    wire_bytes: Int64
    """The bytes on the network for all pages."""
    compressed_percent: Percent | None = None
    """The size of compressed pages in percent of their original size. Unset if none was
    compressed."""


class BlackoutPart(ApiModel):
    """One part of the blackout."""

    name: ShortText
    microseconds: Int64


class MigrationStatus(ApiModel):
    """The observed state. The fields source and target each come from one agent's report only."""

    conditions: Conditions = ()
    """Succeeded is the summary: True, False, or Unknown while the move runs."""
    observed_generation: Int64 = 0
    """The metadata.generation to which this status belongs."""
    phase: MigrationPhase | None = None
    """A summary of the conditions and the agents' reports for people. The operator never reads
    it."""
    strategy: Strategy | None = None
    """The strategy in use."""
    percent: Percent = 0
    """The progress by the last step that has begun. It never falls, and is 100 only after the move
    has succeeded. Another attempt is another ContainerMigration (spec.attempt) and begins at 0."""
    steps: Annotated[tuple[Step, ...], Field(**list_map("name", max_items=32))] = ()
    source: SideStatus | None = None
    target: SideStatus | None = None
    rounds: Annotated[tuple[Round, ...], Field(**list_map("number", max_items=64))] = ()
    prediction: Prediction | None = None
    """The prediction of the handover, recorded before the freeze."""
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
    """The bytes that the source sent."""
    reason: ShortText | None = None
    message: Text | None = None
    hint: Text | None = None
    """What the user can do."""
    log_tail: LongText | None = None
    """The end of CRIU's log, if CRIU failed."""


class ContainerMigration(Resource):
    """One move. Deleting it cancels the move, unless the source has released its copy."""

    spec: MigrationSpec
    status: MigrationStatus = MigrationStatus()
