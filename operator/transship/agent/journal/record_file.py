"""How a record looks as a file, and why a file is not obeyed.

The record's JSON text stands in an envelope with the format's version, the node that wrote it, and
a checksum over all three. Version 1 had neither version nor node, and is still read.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transship.agent.journal.transitions import Record
from transship.api.reasons import Reason
from transship.common.errors import TransshipError

VERSION = 2


class Unreadable(TransshipError):
    """A file that must not be obeyed; reason says why."""

    reason = Reason.RECORD_DAMAGED


class _Envelope(BaseModel):
    """What a file holds: the record's JSON text and the digest of that text."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    version: Annotated[int, Field(ge=1)] = 1
    node: str = ""
    sha256: str
    record: str


def encode(record: Record, *, node: str) -> bytes:
    text = record.model_dump_json(by_alias=True, exclude_none=True)
    sha256 = _digest(VERSION, node, text)
    envelope = _Envelope(version=VERSION, node=node, sha256=sha256, record=text)
    return envelope.model_dump_json().encode()


def decode(data: bytes, *, container: str, node: str) -> Record:
    """The record of this container on this node. Raises Unreadable."""
    envelope = _envelope(data)
    if envelope.version > VERSION:
        raise Unreadable(
            f"it has version {envelope.version}, and this agent reads up to {VERSION}",
            reason=Reason.RECORD_VERSION_UNKNOWN,
        )
    if _digest(envelope.version, envelope.node, envelope.record) != envelope.sha256:
        raise Unreadable("its checksum is wrong")
    try:
        record = Record.model_validate_json(envelope.record)
    except ValidationError as e:
        raise Unreadable(_places(e)) from e
    if record.id != container:
        raise Unreadable(f"it is of container {record.id}", reason=Reason.RECORD_FOREIGN)
    if envelope.node not in ("", node):
        raise Unreadable(f"node {envelope.node} has written it", reason=Reason.RECORD_FOREIGN)
    return record


def _envelope(data: bytes) -> _Envelope:
    try:
        return _Envelope.model_validate_json(data)
    except ValidationError as e:
        raise Unreadable(f"it is torn: {_places(e)}") from e


def _places(error: ValidationError) -> str:
    """The text of a pydantic error would repeat the record, secrets included."""
    wrong = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'text'}: {e['msg']}" for e in wrong)


def _digest(version: int, node: str, text: str) -> str:
    written = text if version == 1 else f"{version}\n{node}\n{text}"
    return hashlib.sha256(written.encode()).hexdigest()
