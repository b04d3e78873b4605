from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.orders import BOOT, ID, MIGRATION, incoming_order, peer, running_record
from transship.agent.journal import transitions
from transship.agent.journal.store import Journal, JournalError
from transship.api.reasons import Reason
from transship.common.errors import Refused


def opened(folder: Path) -> Journal:
    journal = Journal(folder / "journal", boot=BOOT, node="node-a", clock=FakeClock())
    journal.load()
    return journal


def file_of(folder: Path) -> Path:
    return folder / "journal" / f"{ID}.json"


def test_what_was_written_is_read_after_a_restart(tmp_path: Path) -> None:
    frozen = transitions.frozen(running_record(), migration=MIGRATION, peer=peer())
    written = opened(tmp_path).put(frozen)
    assert opened(tmp_path).get(ID) == written
    assert opened(tmp_path).of_migration(MIGRATION) == written


def test_a_record_is_for_the_agent_alone(tmp_path: Path) -> None:
    opened(tmp_path).put(running_record())
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600


def test_a_removed_record_stays_removed(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put(running_record())
    journal.remove(ID)
    assert journal.get(ID) is None
    assert opened(tmp_path).all() == ()


def test_the_floor_of_a_container_that_was_given_away_outlives_its_record(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.put(running_record())
    journal.remove(ID, floor=3)
    assert opened(tmp_path).floor(ID) == 3
    assert opened(tmp_path).floor("another") == 0


def test_the_floor_outlives_a_return_that_was_discarded(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    frozen = transitions.frozen(running_record(), migration=MIGRATION, peer=peer())
    released = journal.put(transitions.released(frozen, epoch=2))
    journal.put(
        transitions.incoming(released, incoming_order(epoch=3, migration="back"), boot=BOOT)
    )
    journal.remove(ID)
    assert opened(tmp_path).floor(ID) == 3


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "one letter changed": lambda data: data.replace(b"counter", b"counteR", 1),
    "not JSON": lambda _: b"\x00\xff",
    "of another version": lambda data: data.replace(b'"version":2', b'"version":9', 1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_record_goes_into_quarantine_and_its_container_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    opened(tmp_path).put(running_record())
    path = file_of(tmp_path)
    path.write_bytes(damage(path.read_bytes()))

    for _ in range(2):  # also at the next start
        journal = opened(tmp_path)
        assert journal.all() == ()
        with pytest.raises(Refused, check=lambda e: e.reason == Reason.QUARANTINED):
            journal.get(ID)
    assert not path.exists()
    assert len(list((tmp_path / "journal" / "quarantine").iterdir())) == 1


def test_a_record_in_the_file_of_another_container_goes_into_quarantine(tmp_path: Path) -> None:
    opened(tmp_path).put(running_record())
    file_of(tmp_path).rename(tmp_path / "journal" / "somebody-else.json")
    (quarantined,) = opened(tmp_path).quarantined.values()
    assert quarantined.reason == Reason.RECORD_FOREIGN


REASONS = {
    "cut short": Reason.RECORD_DAMAGED,
    "one letter changed": Reason.RECORD_DAMAGED,
    "of another version": Reason.RECORD_VERSION_UNKNOWN,
}


@pytest.mark.parametrize("damage", REASONS)
def test_the_reason_for_the_quarantine_outlives_a_restart(tmp_path: Path, damage: str) -> None:
    opened(tmp_path).put(running_record())
    path = file_of(tmp_path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    for _ in range(2):
        quarantined = opened(tmp_path).quarantined[ID]
        assert quarantined.reason == REASONS[damage]
        assert quarantined.file.parent.name == "quarantine"
        assert "counter" not in quarantined.message  # a record holds Secrets


def test_a_record_that_another_node_wrote_is_put_into_quarantine(tmp_path: Path) -> None:
    """A cloned disk would otherwise start every container twice."""
    opened(tmp_path).put(running_record())
    clone = Journal(tmp_path / "journal", boot=BOOT, node="another", clock=FakeClock())
    clone.load()
    assert clone.all() == ()
    assert clone.quarantined[ID].reason == Reason.RECORD_FOREIGN


def test_a_record_that_was_repaired_is_read(tmp_path: Path) -> None:
    opened(tmp_path).put(running_record())
    path = file_of(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:10])
    assert opened(tmp_path).all() == ()
    path.write_bytes(data)
    journal = opened(tmp_path)
    assert journal.get(ID) == running_record().but(written_at=FakeClock().now())
    assert journal.quarantined == {}


def test_records_of_the_first_version_are_still_read(tmp_path: Path) -> None:
    record = running_record()
    text = record.model_dump_json(by_alias=True, exclude_none=True)
    first = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "record": text}
    (tmp_path / "journal").mkdir()
    file_of(tmp_path).write_text(json.dumps(first))
    assert opened(tmp_path).get(ID) == record


def test_the_temporary_file_of_a_crash_is_removed(tmp_path: Path) -> None:
    opened(tmp_path).put(running_record())
    leftover = tmp_path / "journal" / f".{ID}.json.tmp"
    leftover.write_bytes(b"half")
    assert opened(tmp_path).get(ID) is not None
    assert not leftover.exists()


def test_a_write_that_fails_changes_nothing(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    before = journal.put(running_record())
    (tmp_path / "journal" / f".{ID}.json.tmp").mkdir()  # as a full disk would
    with pytest.raises(JournalError):
        journal.put(transitions.frozen(before, migration=MIGRATION, peer=peer()))
    assert journal.get(ID) == before
