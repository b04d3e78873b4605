from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.disks import BadDisk
from fakes.orders import BOOT
from transship.agent.journal.store import Journal, Quarantined
from transship.agent.node import health
from transship.agent.node.facts import Identity, NodeFacts
from transship.agent.node.health import LEAST_FREE_BYTES, HealthReadings
from transship.agent.node.registration import ready_condition
from transship.api.conditions import Status
from transship.api.node_agent import SelfTest
from transship.api.reasons import Reason

NOW = FakeClock().now()
TORN = Quarantined(Path("/j/quarantine/c.json"), Reason.RECORD_DAMAGED, "its checksum is wrong")

PROBLEMS = {
    Reason.JOURNAL_UNWRITABLE: HealthReadings(journal_failure="Read-only file system"),
    Reason.QUARANTINED: HealthReadings(quarantined={"c": TORN}),
    Reason.DISK_FULL: HealthReadings(free_disk_bytes=LEAST_FREE_BYTES - 1),
    Reason.DESCRIPTORS_SHORT: HealthReadings(open_descriptors=1000, descriptor_limit=1024),
    Reason.CERTIFICATE_EXPIRES: HealthReadings(certificate_ends=NOW + timedelta(days=3)),
    Reason.CERTIFICATE_EXPIRED: HealthReadings(certificate_ends=NOW - timedelta(seconds=1)),
}
MIGRATION_BLOCKING = {Reason.JOURNAL_UNWRITABLE, Reason.CERTIFICATE_EXPIRED}


def ready(tmp_path: Path, readings: HealthReadings) -> tuple[Status, str]:
    identity = Identity("node-a", "10.200.0.11", 7443)
    facts = NodeFacts(identity, addresses=tuple, state_dir=tmp_path, containers=lambda: 0)
    facts.complete, facts.self_test = True, SelfTest(passed=True, time=NOW)
    made = ready_condition(facts, health.problems_of(readings, now=NOW), now=NOW)
    return made.status, made.reason


def test_a_node_without_problems_is_healthy_and_ready(tmp_path: Path) -> None:
    readings = HealthReadings(certificate_ends=NOW + timedelta(days=300))
    made = health.healthy_condition(health.problems_of(readings, now=NOW), now=NOW)
    assert made.status == Status.TRUE
    assert ready(tmp_path, readings) == (Status.TRUE, Reason.AGENT_READY)


@pytest.mark.parametrize(("reason", "readings"), PROBLEMS.items())
def test_each_problem_is_reported_and_only_some_keep_the_node_out_of_migrations(
    tmp_path: Path, reason: Reason, readings: HealthReadings
) -> None:
    made = health.healthy_condition(health.problems_of(readings, now=NOW), now=NOW)
    assert (made.status, made.reason) == (Status.FALSE, reason)
    assert ready(tmp_path, readings)[0] == (
        Status.FALSE if reason in MIGRATION_BLOCKING else Status.TRUE
    )


def test_the_worst_comes_first_and_all_are_named() -> None:
    readings = HealthReadings(
        journal_failure="No space left", quarantined={"c": TORN}, free_disk_bytes=0
    )
    made = health.healthy_condition(health.problems_of(readings, now=NOW), now=NOW)
    assert made.reason == Reason.JOURNAL_UNWRITABLE
    for word in ("No space left", "container c: RecordDamaged", "DiskFull"):
        assert word in made.message


def test_a_read_only_disk_and_a_missing_certificate_are_read(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal", boot=BOOT, disk=BadDisk(at=1, error=30))
    journal.load()
    readings = health.read(journal, state_dir=tmp_path, certificate=tmp_path / "none.pem")
    assert "Read-only" in readings.journal_failure
    assert readings.certificate_ends is None
    assert 0 < readings.open_descriptors < readings.descriptor_limit
