"""The doctor's checks, each on what it is to find and on what it is to leave alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fakes.resources import UID, migration, node_agent, placement, report
from transship.agentapi.node import Leftover, NodeReport, QuarantinedRecord
from transship.api.address_pool import AddressPool
from transship.api.base import ObjectMeta
from transship.api.conditions import condition
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.cli import findings
from transship.cli.findings import Finding, Told
from transship.kube.listing import Listing, Unreadable

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def told(**more: object) -> dict[str, Told]:
    return {"node-a": Told(NodeReport(**more))}


def created(ago: timedelta):
    made = migration()
    return made.model_copy(
        update={"metadata": made.metadata.model_copy(update={"creation_timestamp": NOW - ago})}
    )


def pool(*uids: str) -> AddressPool:
    given = [
        {"address": f"10.0.128.{n}", "namespace": "default", "name": "web", "uid": uid}
        for n, uid in enumerate(uids, start=1)
    ]
    return AddressPool.model_validate(
        {"metadata": {"name": "default"}, "spec": {"cidr": "10.0.128.0/17"},
         "status": {"allocations": given}}
    )  # fmt: skip


def only(found: list[Finding]) -> str:
    [finding] = found
    return f"{finding.subject}: {finding.problem}"


def test_an_epoch_that_differs_is_found() -> None:
    known = placement(status={"node": "node-a", "epoch": 3})
    held = {"node-a": (report(epoch=2),)}
    assert "as epoch 2; its status says 3" in only(
        findings.container_findings(Listing((known,)), held, complete=True)
    )
    held = {"node-a": (report(epoch=3),)}
    assert findings.container_findings(Listing((known,)), held, complete=True) == []


def test_a_record_in_quarantine_is_found_with_its_reason_and_its_file() -> None:
    record = QuarantinedRecord(
        container=UID, file="/j/quarantine/x", reason=Reason.RECORD_FOREIGN, message="a clone"
    )
    [found] = findings.journal_findings(told(quarantined=(record,)))
    assert "RecordForeign: a clone" in found.problem
    assert "/j/quarantine/x" in found.remedy


def test_leftovers_are_found_and_living_ones_left_to_a_person() -> None:
    rest = Leftover(container=UID, what=("files", "network"))
    [found] = findings.leftover_findings(told(leftovers=(rest,)))
    assert found.problem == "no record owns its files, network"
    alive = rest.model_copy(update={"alive": True})
    [found] = findings.leftover_findings(told(leftovers=(alive,)))
    assert "a program of it runs" in found.problem
    assert "never" in found.remedy


def test_a_migration_without_an_end_is_found_once_it_is_late() -> None:
    known, nothing = Listing((placement(),)), Listing[ContainerPlacement](())
    young, old = created(timedelta(minutes=1)), created(timedelta(days=1))
    assert findings.overdue_findings([young], known, now=NOW) == []
    assert findings.stray_findings([young, old], known) == []
    assert "it has no end" in only(findings.overdue_findings([old], known, now=NOW))
    assert "is gone" in only(findings.stray_findings([old], nothing))
    assert findings.overdue_findings([old], nothing, now=NOW) == []


def test_a_deleted_resource_that_stays_is_found_after_some_minutes() -> None:
    def deleted(ago: timedelta):
        when = (NOW - ago).isoformat()
        return placement(metadata={"deletionTimestamp": when})

    assert findings.deletion_findings([deleted(timedelta(minutes=1))], now=NOW) == []
    late = only(findings.deletion_findings([deleted(timedelta(hours=1))], now=NOW))
    assert "deleted at 11:00 UTC" in late


def test_an_address_of_nobody_is_found() -> None:
    known = Listing((placement(status={"address": "10.0.128.1"}),))
    assert findings.address_findings(Listing((pool(UID),)), known) == []
    pools = Listing((pool(UID, "another"),))
    assert "which is gone" in only(findings.address_findings(pools, known))


def test_an_address_that_two_have_or_no_pool_gave_is_found() -> None:
    one = placement(status={"address": "10.0.128.1"})
    two = placement("db", uid="another", status={"address": "10.0.128.1"})
    found = findings.address_findings(Listing((pool(UID),)), Listing((one, two)))
    problems = {f.problem for f in found}
    assert problems == {
        "another placement has 10.0.128.1 as well",
        "no pool has given it its address 10.0.128.1",
    }


def test_a_node_that_is_ready_but_not_healthy_is_found() -> None:
    ailing = condition("Healthy", False, reason=Reason.DISK_FULL, message="1 MiB", now=NOW)
    agent = node_agent("node-a")
    assert findings.node_findings([agent]) == []
    status = agent.status.model_copy(update={"conditions": (*agent.status.conditions, ailing)})
    sick = NodeAgent(metadata=ObjectMeta(name="node-a"), status=status)
    assert only(findings.node_findings([sick])) == "node node-a: 1 MiB"


def test_what_cannot_be_read_is_told_of_and_not_taken_for_gone() -> None:
    hidden = Unreadable("ContainerPlacement", "web", "default", UID, "7", "spec: missing")
    known = Listing[ContainerPlacement]((), (hidden,))
    told_of = only(findings.unreadable_findings(known))
    assert told_of == "ContainerPlacement default/web: it cannot be read: spec: missing"
    held = {"node-a": (report(),)}
    assert findings.container_findings(known, held, complete=True) == []
    young = created(timedelta(minutes=1))
    assert findings.stray_findings([young], known) == []
    assert findings.address_findings(Listing((pool(UID),)), known) == []


def test_an_address_is_not_missing_while_a_pool_cannot_be_read() -> None:
    hidden = Unreadable("AddressPool", "default", None, "uid-pool", "7", "spec: missing")
    known = Listing((placement(status={"address": "10.0.128.1"}),))
    assert findings.address_findings(Listing[AddressPool]((), (hidden,)), known) == []
