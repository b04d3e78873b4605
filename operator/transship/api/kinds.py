"""The kinds of the group: the model of each, its names and its columns in kubectl.

This table holds everything that differs between kinds, except for the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from transship.api import GROUP
from transship.api.address_pool import AddressPool
from transship.api.base import Resource
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement


class ColumnType(StrEnum):
    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATE = "date"


@dataclass(frozen=True)
class Column:
    """A column of kubectl get. A wide one is shown only with -o wide."""

    name: str
    path: str
    type: ColumnType = ColumnType.STRING
    description: str = ""
    wide: bool = False


AGE = Column("Age", ".metadata.creationTimestamp", ColumnType.DATE)


@dataclass(frozen=True)
class Kind:
    """One kind. Its plural must differ from those of Kubernetes and of well-known operators."""

    model: type[Resource]
    singular: str
    plural: str
    short_names: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    selectable_fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


PLACEMENTS = Kind(
    model=ContainerPlacement,
    singular="containerplacement",
    plural="containerplacements",
    short_names=("cpl", "placement", "placements"),
    namespaced=True,
    columns=(
        Column("Node", ".status.node", description="The node that has the container"),
        Column("Target", ".spec.targetNode", description="The node on which it belongs"),
        Column("Phase", ".status.phase"),
        Column("Reason", ".status.reason", description="Why the container is not as the spec says"),
        Column("Address", ".status.address"),
        Column(
            "Blackout-ms",
            ".status.lastMigration.blackoutMilliseconds",
            ColumnType.INTEGER,
            "Milliseconds in which no copy ran during the last move",
        ),
        Column("Step", ".status.migration.step", wide=True),
        Column("Percent", ".status.migration.percent", ColumnType.INTEGER, wide=True),
        Column(
            "Migratable",
            ".status.conditions[?(@.type=='Migratable')].status",
            description="Whether the container can be moved now",
            wide=True,
        ),
        Column("Epoch", ".status.epoch", ColumnType.INTEGER, "The number of the owner", wide=True),
        Column("Image", ".spec.container.image", wide=True),
        AGE,
    ),
    selectable_fields=(".spec.targetNode", ".status.node"),
)

MIGRATIONS = Kind(
    model=ContainerMigration,
    singular="containermigration",
    plural="containermigrations",
    short_names=("cmig", "migration", "migrations"),
    namespaced=True,
    columns=(
        Column("Placement", ".spec.placementName"),
        Column("From", ".spec.sourceNode"),
        Column("To", ".spec.targetNode"),
        Column("Phase", ".status.phase"),
        Column("Strategy", ".status.strategy"),
        Column(
            "Blackout-ms",
            ".status.blackoutMilliseconds",
            ColumnType.INTEGER,
            "Milliseconds in which no copy ran",
        ),
        Column("Reason", ".status.reason", wide=True),
        Column("Percent", ".status.percent", ColumnType.INTEGER, wide=True),
        Column("Bytes", ".status.bytes", ColumnType.INTEGER, "Bytes sent to the target", wide=True),
        Column("Total-ms", ".status.totalMilliseconds", ColumnType.INTEGER, wide=True),
        Column("Attempt", ".spec.attempt", ColumnType.INTEGER, wide=True),
        AGE,
    ),
    selectable_fields=(".spec.placementName", ".spec.sourceNode", ".spec.targetNode"),
)

NODE_AGENTS = Kind(
    model=NodeAgent,
    singular="nodeagent",
    plural="nodeagents",
    short_names=("nagent",),
    namespaced=False,
    columns=(
        Column("Ready", ".status.conditions[?(@.type=='Ready')].status"),
        Column("Unschedulable", ".spec.unschedulable", ColumnType.BOOLEAN),
        Column("Address", ".status.address"),
        Column("Containers", ".status.capacity.containers", ColumnType.INTEGER),
        Column("CRIU", ".status.versions.criu"),
        Column("Reason", ".status.conditions[?(@.type=='Ready')].reason", wide=True),
        Column("Kernel", ".status.versions.kernel", wide=True),
        Column("Agent", ".status.versions.agent", wide=True),
        Column("CPU", ".status.features.cpuModel", wide=True),
        AGE,
    ),
)

ADDRESS_POOLS = Kind(
    model=AddressPool,
    singular="addresspool",
    plural="addresspools",
    short_names=("apool",),
    namespaced=False,
    columns=(
        Column("CIDR", ".spec.cidr"),
        Column("Size", ".status.size", ColumnType.INTEGER, "Addresses that can be given out"),
        Column("Allocated", ".status.allocated", ColumnType.INTEGER),
        AGE,
    ),
)

KINDS = (PLACEMENTS, MIGRATIONS, NODE_AGENTS, ADDRESS_POOLS)
_BY_MODEL: Mapping[type[Resource], Kind] = MappingProxyType({kind.model: kind for kind in KINDS})


def kind_of(model: type[Resource]) -> Kind:
    return _BY_MODEL[model]
