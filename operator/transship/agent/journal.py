"""The journal: one file per container that says what this agent has promised about its copy.

A record is durable (file and folder synced) before the step that it announces is taken. What cannot
be read whole is moved to quarantine/ and never obeyed, and its container is left alone until a
person looks: nobody knows what was promised.

Writing blocks the loop for two fsyncs (0.3 ms on a virtual disk), on purpose: what is read,
advanced and written without an await between is never overwritten by one who had read it before.
"""

from __future__ import annotations

import hashlib
import json
import os
from enum import Enum
from pathlib import Path

from loguru import logger
from pydantic import BaseModel, ConfigDict, ValidationError

from transship.agent import breakpoints
from transship.agent.records import Record
from transship.api.reasons import Reason
from transship.common.clock import Clock, SystemClock
from transship.common.errors import Refused, TransshipError
from transship.protocol.states import RecordState

FLOORS_KEPT = (
    10_000  # 50 bytes each; an order outlives its retries by seconds, not by thousands of moves
)


class Durability(Enum):
    SYNCED = "synced"  # survives a power cut
    CACHED = "cached"  # survives the agent: for what only informs, such as the count of restarts


class _Envelope(BaseModel):
    """What a file holds: the record's JSON text and the digest of that text."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    record: str


class JournalError(TransshipError):
    reason = Reason.JOURNAL_UNWRITABLE


class Journal:
    """All records of this node, in memory as on disk."""

    def __init__(self, folder: Path, *, boot: str, clock: Clock | None = None) -> None:
        self.boot = boot  # this boot's id: what ran in another one is gone
        self._folder = folder
        self._clock = clock or SystemClock()
        self._records: dict[str, Record] = {}
        self._quarantined: set[str] = set()
        self._floors: dict[str, int] = {}

    def load(self) -> None:
        """Read everything; once, before anything else."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._quarantine.mkdir(exist_ok=True, mode=0o700)
        for leftover in self._folder.glob(".*.tmp"):
            leftover.unlink()  # a write that was never announced
        self._quarantined = {path.name.partition(".")[0] for path in self._quarantine.iterdir()}
        for path in sorted(self._folder.glob("*.json")):
            self._load_record(path)
        self._floors = self._load_floors()

    def get(self, container_id: str) -> Record | None:
        """Raises Refused for a container whose record is in quarantine."""
        if container_id in self._quarantined and container_id not in self._records:
            raise Refused(
                f"the record of container {container_id} could not be read and is in quarantine",
                reason=Reason.QUARANTINED,
                hint=f"look at {self._quarantine} on the node, then remove the file from there",
            )
        return self._records.get(container_id)

    def all(self) -> tuple[Record, ...]:
        return tuple(self._records.values())

    @property
    def quarantined(self) -> frozenset[str]:
        return frozenset(self._quarantined)

    def of_migration(self, migration: str) -> Record | None:
        """The record that this migration is about, on whichever side."""
        found = (r for r in self._records.values() if migration in (r.migration, r.arrived_by))
        return next(found, None) or next(
            (r for r in self._records.values() if migration in r.aborted), None
        )

    def floor(self, container_id: str) -> int:
        """The lowest epoch that may come here again: an order may arrive after a later move."""
        return self._floors.get(container_id, 0)

    def put(self, record: Record, *, durability: Durability = Durability.SYNCED) -> Record:
        """Write a record; gives it back as written. Never await between get and put."""
        stamped = record.but(written_at=self._clock.now())
        breakpoints.at(f"{record.state}.write")
        self._keep_floor(self._records.get(record.id), record)
        self._store(stamped, durability)
        self._records[record.id] = stamped
        breakpoints.at(f"{record.state}.written")
        return stamped

    def remove(self, container_id: str, *, floor: int | None = None) -> None:
        """Forget a container; floor is the lowest epoch that may come here again."""
        if floor is not None:
            self._raise_floor(container_id, floor)
        self._path(container_id).unlink(missing_ok=True)
        _sync_folder(self._folder)
        self._records.pop(container_id, None)

    def _keep_floor(self, before: Record | None, record: Record) -> None:
        """A copy that comes home replaces the record of its leaving, and may yet be thrown away."""
        released = before if before and before.state is RecordState.RELEASED else None
        if released is not None and record.state is RecordState.INCOMING:
            self._raise_floor(record.id, released.epoch + 1)

    def _raise_floor(self, container_id: str, floor: int) -> None:
        if floor > self.floor(container_id):
            self._floors.pop(container_id, None)  # the newest last
            self._floors[container_id] = floor
            self._store_floors()

    @property
    def _quarantine(self) -> Path:
        return self._folder / "quarantine"

    @property
    def _floors_file(self) -> Path:
        return self._folder / "floors"

    def _path(self, container_id: str) -> Path:
        return self._folder / f"{container_id}.json"

    def _store(self, record: Record, durability: Durability) -> None:
        text = record.model_dump_json(by_alias=True, exclude_none=True)
        envelope = _Envelope(sha256=_digest(text), record=text)
        data = envelope.model_dump_json().encode()
        _write(self._path(record.id), data=data, durability=durability)

    def _load_record(self, path: Path) -> None:
        try:
            record = _read(path)
        except (OSError, ValueError) as e:
            self._put_into_quarantine(path, cause=e)
        else:
            self._records[record.id] = record

    def _put_into_quarantine(self, path: Path, *, cause: Exception) -> None:
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%S")
        kept = self._quarantine / f"{path.stem}.{stamp}.json"
        path.rename(kept)
        _sync_folder(self._folder)
        self._quarantined.add(path.stem)
        logger.bind(container=path.stem, file=str(kept), cause=_one_line(cause)).error(
            "record of a container cannot be read: put into quarantine, the container is left alone"
        )

    def _load_floors(self) -> dict[str, int]:
        try:
            floors = json.loads(self._floors_file.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as e:
            logger.bind(cause=_one_line(e)).error("floors of the journal cannot be read: ignored")
            return {}
        return {str(key): int(value) for key, value in floors.items()}

    def _store_floors(self) -> None:
        for oldest in list(self._floors)[:-FLOORS_KEPT]:
            del self._floors[oldest]
        data = json.dumps(self._floors).encode()
        _write(self._floors_file, data=data, durability=Durability.SYNCED)


def _read(path: Path) -> Record:
    envelope = _Envelope.model_validate_json(path.read_bytes())
    if _digest(envelope.record) != envelope.sha256:
        raise ValueError("its checksum is wrong")
    record = Record.model_validate_json(envelope.record)
    if record.id != path.stem:
        raise ValueError(f"it is the record of container {record.id}")
    return record


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _one_line(cause: Exception) -> str:
    """Of a pydantic error only the places: its text would repeat the record, secrets included."""
    if isinstance(cause, ValidationError):
        return "; ".join(f"{e['loc']}: {e['msg']}" for e in cause.errors(include_input=False))
    return str(cause)


def _write(path: Path, *, data: bytes, durability: Durability) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            if durability is Durability.SYNCED:
                os.fsync(descriptor)
        temporary.rename(path)
        if durability is Durability.SYNCED:
            _sync_folder(path.parent)
    except OSError as e:
        raise JournalError(f"writing {path.name}: {e}", hint="is the node's disk full?") from e


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
