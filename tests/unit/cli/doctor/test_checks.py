"""Each check of the doctor finds what it has to find, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fakes.resources import UID, migration, node_agent, placement, report
from transship.agentapi.containers import ContainerReport
from transship.agentapi.node import Leftover, NodeReport, QuarantinedRecord
from transship.agentapi.states import RecordState
from transship.api.address_pool import AddressPool
from transship.api.base import ObjectMeta
from transship.api.conditions import condition
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.api.reasons import Reason
from transship.cli.doctor import checks
from transship.cli.doctor.checks import AgentAnswer, Finding
from transship.kube.listing import Listing, Unreadable

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def answers(**fields: Any) -> dict[str, AgentAnswer]:
    return {"node-a": AgentAnswer(NodeReport(**fields))}


def created(ago: timedelta) -> ContainerMigration:
    new = migration()
    metadata = new.metadata.model_copy(update={"creation_timestamp": NOW - ago})
    return new.model_copy(update={"metadata": metadata})


def pool(*uids: str) -> AddressPool:
    allocations = [
        {"address": f"10.0.128.{n}", "namespace": "default", "name": "web", "uid": uid}
        for n, uid in enumerate(uids, start=1)
    ]
    return AddressPool.model_validate(
        {
            "metadata": {"name": "default"},
            "spec": {"cidr": "10.0.128.0/17"},
            "status": {"allocations": allocations},
        }
    )


def only(findings: list[Finding]) -> str:
    [finding] = findings
    return f"{finding.subject}: {finding.problem}"


def test_an_epoch_that_differs_is_found() -> None:
    known = placement(status={"node": "node-a", "epoch": 3})
    held = {"node-a": (report(epoch=2),)}
    assert "as epoch 2; its status says 3" in only(
        checks.container_findings(Listing((known,)), held, complete=True)
    )
    held = {"node-a": (report(epoch=3),)}
    assert checks.container_findings(Listing((known,)), held, complete=True) == []


def test_a_record_in_quarantine_is_found_with_its_reason_and_its_file() -> None:
    record = QuarantinedRecord(
        container=UID, file="/j/quarantine/x", reason=Reason.RECORD_FOREIGN, message="a clone"
    )
    [finding] = checks.journal_findings(answers(quarantined=(record,)))
    assert "RecordForeign: a clone" in finding.problem
    assert "/j/quarantine/x" in finding.remedy


def test_leftovers_are_found_and_running_ones_are_left_to_the_user() -> None:
    rest = Leftover(container=UID, what=("files", "network"))
    [finding] = checks.leftover_findings(answers(leftovers=(rest,)))
    assert finding.problem == "no record owns its files, network"
    alive = rest.model_copy(update={"alive": True})
    [finding] = checks.leftover_findings(answers(leftovers=(alive,)))
    assert "one of its programs runs" in finding.problem
    assert "never" in finding.remedy


def test_a_migration_beyond_its_deadline_is_found() -> None:
    known, nothing = Listing((placement(),)), Listing[ContainerPlacement](())
    young, old = created(timedelta(minutes=1)), created(timedelta(days=1))
    assert checks.overdue_findings([young], known, now=NOW) == []
    assert checks.orphan_findings([young, old], known) == []
    assert "it is beyond its deadline" in only(checks.overdue_findings([old], known, now=NOW))
    assert "is gone" in only(checks.orphan_findings([old], nothing))
    assert checks.overdue_findings([old], nothing, now=NOW) == []


def test_a_deleted_resource_that_stays_is_found_after_some_minutes() -> None:
    def deleted(ago: timedelta) -> ContainerPlacement:
        when = (NOW - ago).isoformat()
        return placement(metadata={"deletionTimestamp": when})

    assert checks.deletion_findings([deleted(timedelta(minutes=1))], now=NOW) == []
    late = only(checks.deletion_findings([deleted(timedelta(hours=1))], now=NOW))
    assert "deleted at 11:00 UTC" in late


def test_an_address_of_nobody_is_found() -> None:
    known = Listing((placement(status={"address": "10.0.128.1"}),))
    assert checks.address_findings(Listing((pool(UID),)), known) == []
    pools = Listing((pool(UID, "another"),))
    assert "which is gone" in only(checks.address_findings(pools, known))


def test_an_address_that_two_have_or_no_pool_gave_is_found() -> None:
    one = placement(status={"address": "10.0.128.1"})
    two = placement("db", uid="another", status={"address": "10.0.128.1"})
    findings = checks.address_findings(Listing((pool(UID),)), Listing((one, two)))
    problems = {f.problem for f in findings}
    assert problems == {
        "another placement has 10.0.128.1 as well",
        "no pool has allocated its address 10.0.128.1",
    }


def test_a_node_that_is_ready_but_not_healthy_is_found() -> None:
    unhealthy = condition("Healthy", False, reason=Reason.DISK_FULL, message="1 MiB", now=NOW)
    agent = node_agent("node-a")
    assert checks.node_findings([agent]) == []
    status = agent.status.model_copy(update={"conditions": (*agent.status.conditions, unhealthy)})
    node = NodeAgent(metadata=ObjectMeta(name="node-a"), status=status)
    assert only(checks.node_findings([node])) == "node node-a: 1 MiB"


def test_an_object_that_cannot_be_read_is_found_and_not_treated_as_gone() -> None:
    hidden = Unreadable("ContainerPlacement", "web", "default", UID, "7", "spec: missing")
    known = Listing[ContainerPlacement]((), (hidden,))
    problem = only(checks.unreadable_findings(known))
    assert problem == "ContainerPlacement default/web: it cannot be read: spec: missing"
    held = {"node-a": (report(),)}
    assert checks.container_findings(known, held, complete=True) == []
    young = created(timedelta(minutes=1))
    assert checks.orphan_findings([young], known) == []
    assert checks.address_findings(Listing((pool(UID),)), known) == []


def test_an_address_is_not_missing_while_a_pool_cannot_be_read() -> None:
    hidden = Unreadable("AddressPool", "default", None, "uid-pool", "7", "spec: missing")
    known = Listing((placement(status={"address": "10.0.128.1"}),))
    assert checks.address_findings(Listing[AddressPool]((), (hidden,)), known) == []


def placed_on(node: str) -> ContainerPlacement:
    return placement(status={"node": node})


def container_problems(
    *placements: ContainerPlacement, **reports: tuple[ContainerReport, ...]
) -> list[str]:
    known = {node.replace("_", "-"): containers for node, containers in reports.items()}
    return [
        finding.problem
        for finding in checks.container_findings(Listing(placements), known, complete=True)
    ]


def test_one_owner_where_the_status_says_is_no_finding() -> None:
    assert container_problems(placed_on("node-a"), node_a=(report(),), node_b=()) == []


def test_a_released_copy_beside_the_owner_is_no_finding() -> None:
    held = (report(record=RecordState.RELEASED),)
    assert container_problems(placed_on("node-b"), node_a=held, node_b=(report(),)) == []


def test_two_owners_are_named() -> None:
    [problem] = container_problems(placed_on("node-a"), node_a=(report(),), node_b=(report(),))
    assert "owned by node-a (epoch 1) and node-b (epoch 1); its status says node-a" in problem


def test_a_container_without_a_placement_is_named() -> None:
    [problem] = container_problems(node_a=(report().model_copy(update={"id": "other"}),))
    assert "node-a" in problem
    assert "no such placement" in problem


def test_a_container_that_no_node_has_is_named_only_when_all_agents_answered() -> None:
    [problem] = container_problems(placed_on("node-a"), node_a=())
    assert "no node has it" in problem
    assert checks.container_findings(Listing((placed_on("node-a"),)), {}, complete=False) == []


def test_a_status_that_names_another_node_is_named() -> None:
    [problem] = container_problems(placed_on("node-a"), node_a=(), node_b=(report(),))
    assert problem == "node-b has it; its status says node-a"
