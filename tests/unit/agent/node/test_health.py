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
from transship.agent.node.health import LEAST_FREE_BYTES, Vitals
from transship.agent.node.registration import readiness
from transship.api.conditions import Status
from transship.api.node_agent import SelfTest
from transship.api.reasons import Reason

NOW = FakeClock().now()
TORN = Quarantined(Path("/j/quarantine/c.json"), Reason.RECORD_DAMAGED, "its checksum is wrong")

AILING = {
    Reason.JOURNAL_UNWRITABLE: Vitals(journal_failure="Read-only file system"),
    Reason.QUARANTINED: Vitals(quarantined={"c": TORN}),
    Reason.DISK_FULL: Vitals(free_disk_bytes=LEAST_FREE_BYTES - 1),
    Reason.DESCRIPTORS_SHORT: Vitals(open_descriptors=1000, descriptor_limit=1024),
    Reason.CERTIFICATE_EXPIRES: Vitals(certificate_ends=NOW + timedelta(days=3)),
    Reason.CERTIFICATE_EXPIRED: Vitals(certificate_ends=NOW - timedelta(seconds=1)),
}
BARRING = {Reason.JOURNAL_UNWRITABLE, Reason.CERTIFICATE_EXPIRED}


def ready(tmp_path: Path, vitals: Vitals) -> tuple[Status, str]:
    identity = Identity("node-a", "10.200.0.11", 7443)
    facts = NodeFacts(identity, addresses=tuple, state_dir=tmp_path, containers=lambda: 0)
    facts.complete, facts.self_test = True, SelfTest(passed=True, time=NOW)
    made = readiness(facts, health.problems(vitals, now=NOW), now=NOW)
    return made.status, made.reason


def test_a_node_without_ailments_is_healthy_and_ready(tmp_path: Path) -> None:
    vitals = Vitals(certificate_ends=NOW + timedelta(days=300))
    made = health.healthy(health.problems(vitals, now=NOW), now=NOW)
    assert made.status == Status.TRUE
    assert ready(tmp_path, vitals) == (Status.TRUE, Reason.AGENT_READY)


@pytest.mark.parametrize(("reason", "vitals"), AILING.items())
def test_what_is_wrong_is_said_and_takes_the_node_out_of_moves_only_where_it_must(
    tmp_path: Path, reason: Reason, vitals: Vitals
) -> None:
    made = health.healthy(health.problems(vitals, now=NOW), now=NOW)
    assert (made.status, made.reason) == (Status.FALSE, reason)
    assert ready(tmp_path, vitals)[0] == (Status.FALSE if reason in BARRING else Status.TRUE)


def test_the_worst_comes_first_and_all_are_named() -> None:
    vitals = Vitals(journal_failure="No space left", quarantined={"c": TORN}, free_disk_bytes=0)
    made = health.healthy(health.problems(vitals, now=NOW), now=NOW)
    assert made.reason == Reason.JOURNAL_UNWRITABLE
    for word in ("No space left", "container c: RecordDamaged", "DiskFull"):
        assert word in made.message


def test_looking_finds_a_disk_that_takes_nothing_and_the_end_of_the_certificate(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal", boot=BOOT, disk=BadDisk(at=1, error=30))
    journal.load()
    vitals = health.look(journal, state_dir=tmp_path, certificate=tmp_path / "none.pem")
    assert "Read-only" in vitals.journal_failure
    assert vitals.certificate_ends is None
    assert 0 < vitals.open_descriptors < vitals.descriptor_limit
