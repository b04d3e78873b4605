"""Resources for tests, with everything that a test does not care about filled in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from transship.agentapi.containers import ContainerReport
from transship.agentapi.states import RecordState, RunState
from transship.api import FINALIZER
from transship.api.base import ObjectMeta
from transship.api.conditions import condition
from transship.api.migration import ContainerMigration, MigrationSpec, MigrationStatus, SideStatus
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.controller.migration.history import LABEL_GENERATION, LABEL_PLACEMENT_UID

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UID = "uid-web"


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def placement(name: str = "web", *, uid: str = UID, **spec: Any) -> ContainerPlacement:
    """A placement as users write it; metadata and status can be given as dicts."""
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": uid,
        "generation": 1,
        "finalizers": [FINALIZER],
        **spec.pop("metadata", {}),
    }
    status = spec.pop("status", {})
    wanted = {"container": {"image": "registry/web:1"}, **spec}
    return ContainerPlacement.model_validate(
        {"metadata": metadata, "spec": wanted, "status": status}
    )


def node_agent(
    name: str,
    *,
    ready: bool = True,
    unschedulable: bool = False,
    labels: dict[str, str] | None = None,
    **status: Any,
) -> NodeAgent:
    """A node that is fit for everything unless told otherwise."""
    facts = {
        "endpoint": f"https://{name}:7443",
        "address": f"10.0.0.{sum(name.encode()) % 250 + 1}",
        "versions": {"criu": "4.2.1"},
        "features": {"machine": "x86_64", "cpuFlags": ["sse2", "avx2"]},
        **status,
        "conditions": [
            condition("Ready", ready, reason="AgentReady", now=NOW).model_dump(mode="json")
        ],
    }
    metadata = {"name": name, "uid": f"uid-{name}", "labels": labels or {}}
    return NodeAgent.model_validate(
        {"metadata": metadata, "spec": {"unschedulable": unschedulable}, "status": facts}
    )


def report(
    *,
    epoch: int = 1,
    record: RecordState = RecordState.RUNNING,
    run: RunState = RunState.RUNNING,
    ready: bool = True,
    **more: Any,
) -> ContainerReport:
    return ContainerReport(
        id=UID, namespace="default", name="web", epoch=epoch, record=record, run=run, ready=ready,
        **more,
    )  # fmt: skip


def migration(
    *,
    epoch: int = 1,
    attempt: int = 1,
    source: str = "node-a",
    target: str = "node-b",
    generation: int = 1,
    **status: Any,
) -> ContainerMigration:
    """A migration of `placement()`, under way unless `ended` made its status."""
    name = f"web-{epoch}-{attempt}"
    deleted = status.pop("deleted", None)
    settings = status.pop("settings", {})
    return ContainerMigration(
        metadata=ObjectMeta(
            name=name,
            namespace="default",
            uid=f"uid-{name}",
            generation=1,
            creation_timestamp=NOW,
            deletion_timestamp=deleted,
            labels={LABEL_PLACEMENT_UID: UID, LABEL_GENERATION: str(generation)},
            finalizers=(FINALIZER,),
        ),
        spec=MigrationSpec.model_validate(
            {
                "placementName": "web", "placementUID": UID, "sourceNode": source,
                "targetNode": target, "epoch": epoch, "attempt": attempt, "settings": settings,
            }
        ),
        status=MigrationStatus(**status),
    )  # fmt: skip


def ended(
    made: ContainerMigration,
    *,
    good: bool,
    reason: str = "DumpFailed",
    at: datetime = NOW,
    source_state: str = "",
    target_state: str = "",
) -> ContainerMigration:
    """The same migration, over."""
    said = "MigrationSucceeded" if good else reason
    status = made.status.model_copy(
        update={
            "conditions": (condition("Succeeded", good, reason=said, now=at),),
            "completion_time": at,
            "reason": said,
            "message": "told",
            "source": SideStatus(node=made.spec.source_node, state=source_state),
            "target": SideStatus(node=made.spec.target_node, state=target_state),
        }
    )
    return made.model_copy(update={"status": status})
