"""What the doctor makes of resources and reports."""

from __future__ import annotations

from transship.agentapi.containers import ContainerReport
from transship.agentapi.states import RecordState, RunState
from transship.api.base import ObjectMeta
from transship.api.container import Container
from transship.api.placement import ContainerPlacement, PlacementSpec, PlacementStatus
from transship.cli.findings import container_findings
from transship.kube.listing import Listing

UID = "0b5e5c1e-0000-4000-8000-000000000001"


def placement(node: str | None) -> ContainerPlacement:
    return ContainerPlacement(
        metadata=ObjectMeta(name="db", namespace="default", uid=UID),
        spec=PlacementSpec(container=Container(image="registry.example/db:1")),
        status=PlacementStatus(node=node),
    )


def report(record: RecordState = RecordState.RUNNING, *, uid: str = UID) -> ContainerReport:
    return ContainerReport(
        id=uid, namespace="default", name="db", epoch=1, record=record, run=RunState.RUNNING
    )


def problems(*args: ContainerPlacement, **reports: tuple[ContainerReport, ...]) -> list[str]:
    known = {node.replace("_", "-"): held for node, held in reports.items()}
    return [f.problem for f in container_findings(Listing(args), known, complete=True)]


def test_one_owner_where_the_status_says_is_no_finding() -> None:
    assert problems(placement("node-a"), node_a=(report(),), node_b=()) == []


def test_a_released_copy_beside_the_owner_is_no_finding() -> None:
    held = (report(RecordState.RELEASED),)
    assert problems(placement("node-b"), node_a=held, node_b=(report(),)) == []


def test_two_owners_are_named() -> None:
    [problem] = problems(placement("node-a"), node_a=(report(),), node_b=(report(),))
    assert "owned by node-a (epoch 1) and node-b (epoch 1); its status says node-a" in problem


def test_a_container_without_a_placement_is_named() -> None:
    [problem] = problems(node_a=(report(uid="other"),))
    assert "node-a" in problem
    assert "no such placement" in problem


def test_a_container_that_no_node_has_is_named_only_when_all_were_asked() -> None:
    [problem] = problems(placement("node-a"), node_a=())
    assert "no node has it" in problem
    assert container_findings(Listing((placement("node-a"),)), {}, complete=False) == []


def test_a_status_that_names_another_node_is_named() -> None:
    [problem] = problems(placement("node-a"), node_a=(), node_b=(report(),))
    assert problem == "node-b has it; its status says node-a"
