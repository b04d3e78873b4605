"""The journal: one file per container with the record of what this agent has promised.

A record is durable (file and folder synced) before the agent takes the step that it announces. A
file that cannot be read is moved to quarantine/. The agent does not touch its container until a
person has looked at it, because nobody knows what was promised.

Writing blocks the event loop for two fsyncs (0.3 ms on a virtual disk). This is on purpose: where
no await stands between reading a record and writing its successor, no update is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.agent.journal.record import Record, Unreadable, decode, encode
from transship.agentapi.node import QuarantinedRecord
from transship.agentapi.states import RecordState
from transship.api.reasons import Reason
from transship.common import durable_files, failpoints
from transship.common.clock import Clock, SystemClock
from transship.common.durable_files import Disk, Durability
from transship.common.errors import Refused, TransshipError

# 50 bytes each; orders are retried for seconds, so thousands of moves are more than enough
FLOORS_KEPT = 10_000


class JournalError(TransshipError):
    """The disk did not take a record, or may not have."""

    reason = Reason.JOURNAL_UNWRITABLE


@dataclass(frozen=True)
class Quarantined:
    """A file in quarantine, and why it is there."""

    file: Path
    reason: str
    message: str


class Journal:
    """All records of this node, in memory and on disk.

    Records that another node wrote (on a cloned disk) go into quarantine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        boot: str,
        node: str = "",
        clock: Clock | None = None,
        disk: Disk | None = None,
    ) -> None:
        self.boot = boot
        """The id of this boot: instances of another boot are gone."""
        self.failure = ""
        """Why the last write failed; empty if it succeeded."""
        self.being_removed: set[str] = set()
        """Containers whose leftovers the garbage collector is removing now."""
        self._folder = folder
        self._node = node
        self._clock = clock or SystemClock()
        self._disk = disk or Disk()
        self._records: dict[str, Record] = {}
        self._quarantined: dict[str, Quarantined] = {}
        self._floors: dict[str, int] = {}

    def load(self) -> None:
        """Read all files; called once, before any other method."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._quarantine.mkdir(exist_ok=True, mode=0o700)
        # of writes that a crash cut short; on a read-only disk they stay
        for leftover in self._folder.glob(".*.tmp"):
            with suppress(OSError):
                self._disk.unlink(leftover)
        for path in sorted(self._quarantine.iterdir()):
            self._remember_quarantined(path)
        for path in sorted(self._folder.glob("*.json")):
            self._load_record(path)
        self._floors = self._load_floors()

    def get(self, container_id: str) -> Record | None:
        """Raises Refused for a container whose record is in quarantine."""
        quarantined = self.quarantined.get(container_id)
        if quarantined is not None:
            raise Refused(
                f"the record of container {container_id} is in quarantine: {quarantined.message}",
                reason=Reason.QUARANTINED,
                hint=f"look at {quarantined.file} on the node, remove it, restart the agent",
            )
        return self._records.get(container_id)

    def all(self) -> tuple[Record, ...]:
        return tuple(self._records.values())

    @property
    def quarantined(self) -> Mapping[str, Quarantined]:
        """By container, without those that have a valid record again."""
        return {
            container: quarantined
            for container, quarantined in self._quarantined.items()
            if container not in self._records
        }

    def report(self) -> tuple[QuarantinedRecord, ...]:
        return tuple(
            QuarantinedRecord(
                container=container,
                file=str(quarantined.file),
                reason=quarantined.reason,
                message=quarantined.message,
            )
            for container, quarantined in sorted(self.quarantined.items())
        )

    def of_migration(self, migration: str) -> Record | None:
        """The record of the container that this migration moves, whether away or to this node."""
        records = self._records.values()
        present = (r for r in records if migration in (r.migration, r.arrived_by))
        aborted = (r for r in records if migration in r.aborted)
        return next(present, None) or next(aborted, None)

    def floor(self, container_id: str) -> int:
        """The lowest epoch that this node may run again, since late orders may still arrive."""
        return self._floors.get(container_id, 0)

    def put(self, record: Record, *, durability: Durability = Durability.SYNCED) -> Record:
        """Write a record and return it with its time. Callers must not await between get and put.

        Raises JournalError: the disk may or may not have the record, memory has the old one.
        Raises Refused while the container's leftovers are being removed.
        """
        if record.id in self.being_removed:
            raise Refused(
                f"leftovers of container {record.id} are being removed from this node",
                reason=Reason.DELETING,
                hint="try again in a moment",
            )
        stamped = record.but(written_at=self._clock.now())
        failpoints.at(f"{record.state}.write")
        self._keep_floor(self._records.get(record.id), record)
        self._store(stamped, durability)
        self._records[record.id] = stamped
        failpoints.at(f"{record.state}.written")
        return stamped

    def remove(self, container_id: str, *, floor: int | None = None) -> None:
        """Delete a record. floor: the lowest epoch that this node may run again."""
        if floor is not None:
            self._raise_floor(container_id, floor)
        with self._failing(f"removing the record of {container_id}"):
            durable_files.remove(self._disk, self._path(container_id))
        self._records.pop(container_id, None)

    def try_disk(self) -> None:
        """Find out whether records can be written, and set `failure`. Never raises."""
        with suppress(JournalError), self._failing("trying the disk"):
            trial = self._folder / ".trial.tmp"
            durable_files.write(self._disk, trial, b"x" * 4096, durability=Durability.SYNCED)
            self._disk.unlink(trial)

    def _keep_floor(self, before: Record | None, record: Record) -> None:
        """Keep the floor of a container that returns: its Incoming record may be discarded."""
        released = before if before and before.state is RecordState.RELEASED else None
        if released is not None and record.state is RecordState.INCOMING:
            self._raise_floor(record.id, released.epoch + 1)

    def _raise_floor(self, container_id: str, floor: int) -> None:
        if floor > self.floor(container_id):
            others = {key: low for key, low in self._floors.items() if key != container_id}
            floors = dict([*others.items(), (container_id, floor)][-FLOORS_KEPT:])
            with self._failing("writing floors"):
                data = json.dumps(floors).encode()
                durable_files.write(
                    self._disk, self._floors_file, data, durability=Durability.SYNCED
                )
            self._floors = floors

    @contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        """Keep the error of the disk for the node's conditions."""
        try:
            yield
        except OSError as e:
            self.failure = f"{doing}: {e}"
            raise JournalError(self.failure, hint=Reason.JOURNAL_UNWRITABLE.hint) from e
        self.failure = ""

    @property
    def _quarantine(self) -> Path:
        return self._folder / "quarantine"

    @property
    def _floors_file(self) -> Path:
        return self._folder / "floors"

    def _path(self, container_id: str) -> Path:
        return self._folder / f"{container_id}.json"

    def _store(self, record: Record, durability: Durability) -> None:
        data = encode(record, node=self._node)
        with self._failing(f"writing the record of {record.id}"):
            durable_files.write(self._disk, self._path(record.id), data, durability=durability)

    def _load_record(self, path: Path) -> None:
        try:
            record = decode(path.read_bytes(), container=path.stem, node=self._node)
        except (OSError, Unreadable) as e:
            self._put_into_quarantine(path, cause=e)
        else:
            self._records[record.id] = record

    def _put_into_quarantine(self, path: Path, *, cause: OSError | Unreadable) -> None:
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%S")
        kept = self._quarantine / f"{path.stem}.{stamp}.json"
        try:
            durable_files.move(self._disk, path, kept)
        except OSError:  # the file stays in place, and is ignored all the same
            kept = path
        quarantined = _quarantined(kept, cause)
        self._quarantined[path.stem] = quarantined
        logger.bind(container=path.stem, file=str(kept), reason=quarantined.reason).error(
            "record put into quarantine, its container is not touched: {}", quarantined.message
        )

    def _remember_quarantined(self, path: Path) -> None:
        container = path.name.partition(".")[0]
        try:
            decode(path.read_bytes(), container=container, node=self._node)
        except (OSError, Unreadable) as e:
            self._quarantined[container] = _quarantined(path, e)
        else:
            valid = Unreadable("it is valid, but lies in quarantine")
            self._quarantined[container] = _quarantined(path, valid)

    def _load_floors(self) -> dict[str, int]:
        try:
            floors = json.loads(self._floors_file.read_bytes())
            return {str(key): int(value) for key, value in floors.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as e:
            logger.bind(cause=str(e)).error("reading the journal's floors failed, none apply")
            return {}


def _quarantined(file: Path, cause: OSError | Unreadable) -> Quarantined:
    reason = cause.reason if isinstance(cause, Unreadable) else Reason.RECORD_DAMAGED
    message = cause.message if isinstance(cause, Unreadable) else str(cause)
    return Quarantined(file, str(reason), message)
