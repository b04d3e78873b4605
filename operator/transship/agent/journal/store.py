"""The journal: one file per container that says what this agent has promised about its copy.

A record is durable (file and folder synced) before the step that it announces is taken. What cannot
be read whole is moved to quarantine/ and never obeyed, and its container is left alone until a
person looks: nobody knows what was promised.

Writing blocks the loop for two fsyncs (0.3 ms on a virtual disk), on purpose: what is read,
advanced and written without an await between is never overwritten by one who had read it before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from transship.agent.journal import durable_files, record_file
from transship.agent.journal.durable_files import Disk, Durability
from transship.agent.journal.record_file import Unreadable
from transship.agent.journal.transitions import Record
from transship.agentapi.node import QuarantinedRecord
from transship.agentapi.states import RecordState
from transship.api.reasons import Reason
from transship.common import failpoints
from transship.common.clock import Clock, SystemClock
from transship.common.errors import Refused, TransshipError

# 50 bytes each; an order outlives its retries by seconds, not by thousands of moves
FLOORS_KEPT = 10_000


class JournalError(TransshipError):
    reason = Reason.JOURNAL_UNWRITABLE


@dataclass(frozen=True)
class Quarantined:
    """A record that is not obeyed: why, and where it lies."""

    file: Path
    reason: str
    message: str


class Journal:
    """All records of this node, in memory as on disk.

    node: whose records these are; those of another node (a cloned disk) are not obeyed.
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
        self.boot = boot  # this boot's id: what ran in another one is gone
        self.failure = ""  # of the last write
        # containers whose leftovers the garbage collector is removing now
        self.being_removed: set[str] = set()
        self._folder = folder
        self._node = node
        self._clock = clock or SystemClock()
        self._disk = disk or Disk()
        self._records: dict[str, Record] = {}
        self._quarantined: dict[str, Quarantined] = {}
        self._floors: dict[str, int] = {}

    def load(self) -> None:
        """Read everything; once, before anything else."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._quarantine.mkdir(exist_ok=True, mode=0o700)
        for leftover in self._folder.glob(".*.tmp"):  # a write that was never announced
            with suppress(OSError):  # a disk that takes nothing: what can be read is obeyed
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
        """By container; one whose record is whole again is in it no more."""
        return {key: each for key, each in self._quarantined.items() if key not in self._records}

    def report(self) -> tuple[QuarantinedRecord, ...]:
        return tuple(
            QuarantinedRecord(
                container=container, file=str(each.file), reason=each.reason, message=each.message
            )
            for container, each in sorted(self.quarantined.items())
        )

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
        """Write a record; gives it back as written. Never await between get and put.

        After a JournalError the disk may have the record or not; in memory it is as before.
        """
        if record.id in self.being_removed:
            raise Refused(
                f"what is left of container {record.id} here is being removed",
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
        """Forget a container; floor is the lowest epoch that may come here again."""
        if floor is not None:
            self._raise_floor(container_id, floor)
        with self._failing(f"removing the record of {container_id}"):
            durable_files.remove(self._disk, self._path(container_id))
        self._records.pop(container_id, None)

    def try_disk(self) -> None:
        """Find out whether promises can be written, before one has to be. Never raises."""
        with suppress(JournalError), self._failing("trying the disk"):
            trial = self._folder / ".trial.tmp"
            durable_files.write(self._disk, trial, b"x" * 4096, durability=Durability.SYNCED)
            self._disk.unlink(trial)

    def _keep_floor(self, before: Record | None, record: Record) -> None:
        """A copy that comes home replaces the record of its leaving, and may yet be thrown away."""
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
        """What the disk says is noted, for the node's conditions."""
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
        data = record_file.encode(record, node=self._node)
        with self._failing(f"writing the record of {record.id}"):
            durable_files.write(self._disk, self._path(record.id), data, durability=durability)

    def _load_record(self, path: Path) -> None:
        try:
            record = record_file.decode(path.read_bytes(), container=path.stem, node=self._node)
        except (OSError, Unreadable) as e:
            self._put_into_quarantine(path, cause=e)
        else:
            self._records[record.id] = record

    def _put_into_quarantine(self, path: Path, *, cause: OSError | Unreadable) -> None:
        stamp = self._clock.now().strftime("%Y%m%dT%H%M%S")
        kept = self._quarantine / f"{path.stem}.{stamp}.json"
        try:
            durable_files.move(self._disk, path, kept)
        except OSError:  # it stays where it is, and is as little obeyed
            kept = path
        found = _quarantined(kept, cause)
        self._quarantined[path.stem] = found
        logger.bind(container=path.stem, file=str(kept), reason=found.reason).error(
            "record of a container is put into quarantine, the container is left alone: {}",
            found.message,
        )

    def _remember_quarantined(self, path: Path) -> None:
        container = path.name.partition(".")[0]
        try:
            record_file.decode(path.read_bytes(), container=container, node=self._node)
        except (OSError, Unreadable) as e:
            self._quarantined[container] = _quarantined(path, e)
        else:
            whole = Unreadable("it is whole, but was put here")
            self._quarantined[container] = _quarantined(path, whole)

    def _load_floors(self) -> dict[str, int]:
        try:
            floors = json.loads(self._floors_file.read_bytes())
            return {str(key): int(value) for key, value in floors.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as e:
            logger.bind(cause=str(e)).error("floors of the journal cannot be read: ignored")
            return {}


def _quarantined(file: Path, cause: OSError | Unreadable) -> Quarantined:
    reason = cause.reason if isinstance(cause, Unreadable) else Reason.RECORD_DAMAGED
    message = cause.message if isinstance(cause, Unreadable) else str(cause)
    return Quarantined(file, str(reason), message)
