"""The record of a container, and its encoding as a file.

A file holds the record's JSON text in an envelope with the format's version, the node that wrote
it, and a checksum over all three. Version 1 had neither version nor node, and is still read.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transship.agentapi.containers import ContainerOrder, ProbeState
from transship.agentapi.message import Message
from transship.agentapi.migrations import MemoryEndpoint, Peer
from transship.agentapi.states import RecordState
from transship.api.base import MicroTime
from transship.api.placement import LastExit
from transship.api.reasons import Reason
from transship.common.errors import TransshipError

FORMAT_VERSION = 2


OWNED = frozenset({RecordState.RUNNING, RecordState.STOPPED})
LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class Record(Message):
    """What this agent has promised about its copy of one container.

    `epoch` is the epoch as which this copy runs or may run. In state Released it is the epoch of
    the new owner. `migration` and `peer` are set while a migration is under way on this side.
    `ordered_boot` and `started_boot` are boot ids of this node.
    """

    version: Literal[1] = 1
    id: str
    namespace: str
    name: str
    epoch: Annotated[int, Field(ge=1)]
    state: RecordState
    order: ContainerOrder
    migration: str | None = None
    peer: Peer | None = None
    before: RecordState | None = None
    """Source: the state that an abort returns to. Target, held: Stopped where it has completed."""
    memory_goes_to: MemoryEndpoint | None = None
    """Source, released: where the pages go that the target does not have yet."""
    arrived_by: str | None = None
    """The migration that brought the container here, so that a repeated verdict is answered."""
    memory_lost: str = ""
    """Why the pages that this migration still owed will never come; empty where they may."""
    aborted: tuple[str, ...] = ()
    """Aborted migrations whose source was this node."""
    image_digest: str | None = None
    start_time: MicroTime | None = None
    restarts: int = 0
    last_exit: LastExit | None = None
    probes: ProbeState | None = None
    """Of the present instance."""
    ordered_boot: str = ""
    """The boot in which the operator or a migration last wanted the container here."""
    started_boot: str = ""
    """The boot in which the present instance was started; empty without an instance."""
    refuses_landlock: bool = False
    """Whether the instance's seccomp filter refuses Landlock; those of older agents did not."""
    written_at: MicroTime = LONG_AGO

    def but(self, **changes: object) -> Record:
        """A copy with some fields changed, validated like a new record."""
        return Record.model_validate({**dict(self), **changes})


class Unreadable(TransshipError):
    """A file that is no valid record of this container on this node; `reason` says why."""

    reason = Reason.RECORD_DAMAGED


class _Envelope(BaseModel):
    """The content of a file: the record's JSON text and a checksum."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Annotated[int, Field(ge=1)] = 1
    node: str = ""
    sha256: str
    record: str


def encode(record: Record, *, node: str) -> bytes:
    text = record.model_dump_json(by_alias=True, exclude_none=True)
    sha256 = _digest(FORMAT_VERSION, node, text)
    envelope = _Envelope(version=FORMAT_VERSION, node=node, sha256=sha256, record=text)
    return envelope.model_dump_json().encode()


def decode(data: bytes, *, container: str, node: str) -> Record:
    """The record in the file of this container. Raises Unreadable."""
    envelope = _envelope(data)
    if envelope.version > FORMAT_VERSION:
        raise Unreadable(
            f"it has version {envelope.version}, and this agent reads up to {FORMAT_VERSION}",
            reason=Reason.RECORD_VERSION_UNKNOWN,
        )
    if _digest(envelope.version, envelope.node, envelope.record) != envelope.sha256:
        raise Unreadable("its checksum is wrong")
    try:
        record = Record.model_validate_json(envelope.record)
    except ValidationError as e:
        raise Unreadable(_wrong_fields(e)) from e
    if record.id != container:
        raise Unreadable(f"it is the record of container {record.id}", reason=Reason.RECORD_FOREIGN)
    if envelope.node not in ("", node):
        raise Unreadable(f"node {envelope.node} wrote it", reason=Reason.RECORD_FOREIGN)
    return record


def _envelope(data: bytes) -> _Envelope:
    try:
        return _Envelope.model_validate_json(data)
    except ValidationError as e:
        raise Unreadable(f"it is incomplete: {_wrong_fields(e)}") from e


def _wrong_fields(error: ValidationError) -> str:
    """The wrong fields without their values: the text of the error would repeat Secrets."""
    details = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'text'}: {e['msg']}" for e in details)


def _digest(version: int, node: str, text: str) -> str:
    content = text if version == 1 else f"{version}\n{node}\n{text}"
    return hashlib.sha256(content.encode()).hexdigest()
