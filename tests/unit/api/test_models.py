"""The models on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from transship.api.base import ObjectMeta
from transship.api.container import Container, ResourceList
from transship.api.migration import ContainerMigration, MigrationPhase, MigrationSpec, Step
from transship.api.node_agent import NodeAgentStatus
from transship.api.placement import ContainerPlacement, LastMigration, PlacementSpec

DOCUMENT: dict[str, Any] = {
    "apiVersion": "transship.dev/v1alpha1",
    "kind": "ContainerPlacement",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u", "generation": 3},
    "spec": {
        "targetNode": "node-a",
        "container": {
            "image": "web:1",
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "readinessProbe": {"httpGet": {"port": 80}},
        },
        "volumes": [{"name": "data", "emptyDir": {}}],
    },
}


def test_a_document_is_read_with_its_defaults() -> None:
    placement = ContainerPlacement.model_validate(DOCUMENT)
    assert placement.metadata.generation == 3
    assert placement.spec.target_node == "node-a"
    assert placement.spec.container.restart_policy == "Always"
    assert placement.spec.container.env[0].value_from is not None
    assert placement.spec.volumes[0].empty_dir is not None
    assert placement.status.epoch == 0


def test_what_was_dumped_can_be_read_again() -> None:
    placement = ContainerPlacement.model_validate(DOCUMENT)
    assert ContainerPlacement.model_validate(placement.dump()) == placement


def test_a_field_of_a_newer_version_is_ignored() -> None:
    newer = {**DOCUMENT, "spec": {**DOCUMENT["spec"], "later": 1}}
    assert ContainerPlacement.model_validate(newer).spec.target_node == "node-a"


def test_unset_fields_are_left_out() -> None:
    dumped = PlacementSpec(container=Container(image="web:1")).dump()
    assert "targetNode" not in dumped
    assert dumped["container"]["image"] == "web:1"


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ObjectMeta(name="a").__setattr__("name", "b")


def test_acronyms_keep_their_case_on_the_wire() -> None:
    spec = MigrationSpec(
        placement_name="web", placement_uid="u", source_node="a", target_node="b", epoch=1
    )
    assert spec.dump()["placementUID"] == "u"
    assert NodeAgentStatus(boot_id="b").dump()["bootID"] == "b"


def test_a_field_called_like_a_keyword_has_its_name_on_the_wire() -> None:
    move = LastMigration(name="m", from_="a", to="b", strategy="Cold")
    assert move.dump()["from"] == "a"


def test_times_have_microseconds_where_milliseconds_count() -> None:
    moment = datetime(2026, 1, 1, 0, 0, 0, 1500, tzinfo=UTC)
    assert Step(name="Freeze", start_time=moment).dump()["startTime"] == (
        "2026-01-01T00:00:00.001500Z"
    )


def test_a_quantity_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be a quantity such as"):
        ResourceList(cpu="fast")


def test_a_migration_refers_to_its_placement() -> None:
    document = {
        "metadata": {"name": "web-1", "namespace": "shop"},
        "spec": {
            "placementName": "web",
            "placementUID": "u",
            "sourceNode": "a",
            "targetNode": "b",
            "epoch": 1,
        },
    }
    migration = ContainerMigration.model_validate(document)
    assert migration.spec.placement_uid == "u"
    assert migration.spec.attempt == 1


@pytest.mark.parametrize("phase", MigrationPhase)
def test_three_phases_are_final(phase: MigrationPhase) -> None:
    assert phase.finished == (phase in {"Succeeded", "Failed", "Cancelled"})
