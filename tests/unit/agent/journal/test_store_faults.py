"""The journal of an agent that is killed, or whose disk fails, at any system call of a write."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.disks import BadDisk, FullDisk, Killed, SlowDisk
from fakes.orders import BOOT, ID, MIGRATION, peer, running_record
from transship.agent.journal import transitions
from transship.agent.journal.record import Record
from transship.agent.journal.store import Journal, JournalError
from transship.agentapi.states import RecordState
from transship.api.reasons import Reason
from transship.common.durable_files import Disk

CALLS = ["create", "write", "sync", "rename", "open_folder", "sync"]
ERRORS = {
    "full": errno.ENOSPC,
    "broken": errno.EIO,
    "read-only": errno.EROFS,
    "quota": errno.EDQUOT,
}


def opened(folder: Path, disk: Disk | None = None) -> Journal:
    journal = Journal(folder / "journal", boot=BOOT, node="node-a", clock=FakeClock(), disk=disk)
    journal.load()
    return journal


def frozen(record: Record) -> Record:
    return transitions.frozen(record, migration=MIGRATION, peer=peer())


def prepared(folder: Path) -> Record:
    return opened(folder).put(running_record())


def test_the_calls_of_a_write_are_those_that_are_broken_here(tmp_path: Path) -> None:
    disk = BadDisk(at=99, error=errno.EIO)
    opened(tmp_path, disk).put(running_record())
    assert disk.calls == CALLS


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, len(CALLS) + 1))
def test_an_agent_that_is_killed_in_a_write_leaves_the_old_record_or_the_new_one(
    tmp_path: Path, at: int, after: bool
) -> None:
    before = prepared(tmp_path)
    disk = BadDisk(at=at, error=Killed, after=after)
    with pytest.raises(Killed):
        opened(tmp_path, disk).put(frozen(before))

    journal = opened(tmp_path)
    was_renamed = at > CALLS.index("rename") + 1 or (at == CALLS.index("rename") + 1 and after)
    assert journal.quarantined == {}
    record = journal.get(ID)
    assert record is not None
    assert record.state is (RecordState.FROZEN if was_renamed else RecordState.RUNNING)
    assert list((tmp_path / "journal").glob(".*.tmp")) == []


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
@pytest.mark.parametrize("at", range(1, len(CALLS) + 1))
def test_after_a_failed_write_the_record_in_memory_is_the_old_one(
    tmp_path: Path, at: int, error: int
) -> None:
    before = prepared(tmp_path)
    journal = opened(tmp_path, BadDisk(at=at, error=error))
    with pytest.raises(JournalError, check=lambda e: e.reason == Reason.JOURNAL_UNWRITABLE):
        journal.put(frozen(before))
    assert journal.get(ID) == before
    assert journal.failure
    record = opened(tmp_path).get(ID)
    assert record is not None
    assert record.state in {RecordState.RUNNING, RecordState.FROZEN}


def test_a_disk_that_works_again_is_noticed(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    journal = opened(tmp_path, BadDisk(at=1, error=errno.ENOSPC))
    with pytest.raises(JournalError):
        journal.put(frozen(before))
    journal._disk = Disk()
    journal.try_disk()
    assert journal.failure == ""
    assert journal.put(frozen(before)).state is RecordState.FROZEN


def test_a_disk_that_cannot_be_written_is_noticed_before_a_record_is_due(tmp_path: Path) -> None:
    journal = opened(tmp_path, BadDisk(at=1, error=errno.EROFS))
    journal.try_disk()
    assert "Read-only" in journal.failure


def test_a_full_disk_gets_its_room_back(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    disk = FullDisk(at=CALLS.index("sync") + 1, error=errno.ENOSPC)
    with pytest.raises(JournalError):
        opened(tmp_path, disk).put(frozen(before))
    assert list((tmp_path / "journal").glob(".*.tmp")) == []


def test_short_writes_are_completed(tmp_path: Path) -> None:
    written = opened(tmp_path, SlowDisk()).put(running_record())
    assert opened(tmp_path).get(ID) == written


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("error", [errno.EIO, Killed])
def test_a_removal_that_fails_keeps_the_record(
    tmp_path: Path, at: int, error: int | type[Killed]
) -> None:
    prepared(tmp_path)
    journal = opened(tmp_path, BadDisk(at=at, error=error))
    with pytest.raises((JournalError, Killed)):
        journal.remove(ID)
    assert journal.get(ID) is not None
    assert opened(tmp_path).quarantined == {}


@pytest.mark.parametrize("at", range(1, len(CALLS) + 4))
def test_a_floor_is_durable_before_the_record_goes(tmp_path: Path, at: int) -> None:
    prepared(tmp_path)
    with pytest.raises(Killed):
        opened(tmp_path, BadDisk(at=at, error=Killed)).remove(ID, floor=3)
    journal = opened(tmp_path)
    assert journal.get(ID) is not None or journal.floor(ID) == 3


def test_a_journal_on_a_read_only_disk_is_read(tmp_path: Path) -> None:
    before = prepared(tmp_path)
    (tmp_path / "journal" / "torn.json").write_bytes(b"{")
    (tmp_path / "journal" / ".x.json.tmp").write_bytes(b"half")
    journal = opened(tmp_path, BadDisk(at=1, error=errno.EROFS))
    assert journal.get(ID) == before
    assert set(journal.quarantined) == {"torn"}
