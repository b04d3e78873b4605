"""What all models of the API share: base classes, bounded types, list types, CEL rules.

Every string, list and number is bounded. The API server needs the bounds to estimate the cost of a
CEL rule, and an unbounded status could exceed etcd's limit of 1.5 MiB per object. The string
literal below a field is its description in the schema and in docs/api.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from transship.api.quantity import parse_quantity

# The API server stores a default of the schema in every object. Only a field that is a key of a
# list map is marked with this.
PERSISTED_DEFAULT = "x-transship-persisted-default"


def rule(expression: str, message: str) -> dict[str, str]:
    """Return a CEL rule for the API server. The message says what to write instead."""
    return {"rule": expression, "message": message}


def rules(*several: dict[str, str]) -> dict[str, Any]:
    return {"x-kubernetes-validations": list(several)}


def int32(minimum: int, maximum: int) -> Any:
    return Field(ge=minimum, le=maximum, json_schema_extra={"format": "int32"})


def list_map(*keys: str, max_items: int) -> dict[str, Any]:
    """Return the settings of a list that server-side apply merges item by item.

    keys: the JSON names of the fields that identify an item.
    """
    return {
        "max_length": max_items,
        "json_schema_extra": {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(keys),
        },
    }


def list_set(*, max_items: int) -> dict[str, Any]:
    return {"max_length": max_items, "json_schema_extra": {"x-kubernetes-list-type": "set"}}


def list_atomic(*, max_items: int) -> dict[str, Any]:
    return {"max_length": max_items, "json_schema_extra": {"x-kubernetes-list-type": "atomic"}}


Dns1123Label = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
Dns1123Subdomain = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

LabelName = Annotated[str, Field(max_length=63, pattern=Dns1123Label)]
ObjectName = Annotated[str, Field(max_length=253, pattern=Dns1123Subdomain)]
ShortText = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=4096)]
LongText = Annotated[str, Field(max_length=32768)]
Path = Annotated[str, Field(max_length=4096, pattern=r"^/")]
Int32 = Annotated[int, int32(0, 2**31 - 1)]
Int64 = Annotated[int, Field(ge=0, le=2**53 - 1, json_schema_extra={"format": "int64"})]
Percent = Annotated[int, int32(0, 100)]
Address = Annotated[str, Field(max_length=45)]


class IPFamily(StrEnum):
    """The same values as spec.ipFamilies of a Service."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


def _whole_seconds(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _microseconds(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# metav1.Time and metav1.MicroTime
Time = Annotated[
    datetime, PlainSerializer(_whole_seconds, return_type=str, when_used="json-unless-none")
]
MicroTime = Annotated[
    datetime, PlainSerializer(_microseconds, return_type=str, when_used="json-unless-none")
]


def quantity_schema() -> dict[str, Any]:
    """Return a schema that accepts both 2 and "500m", and refuses negative quantities."""
    return {
        "x-kubernetes-int-or-string": True,
        "maxLength": 32,
        **rules(
            rule(
                "type(self) == int ? self >= 0 :"
                " isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",
                "must be a quantity that is not negative, such as 500m, 2, 256Mi or 1Gi",
            )
        ),
    }


def _readable_quantity(value: str | int) -> str | int:
    parse_quantity(value)
    return value


# "500m", "1.5Gi" or 2, as in a Pod; api.quantity parses it
Quantity = Annotated[
    str | int, AfterValidator(_readable_quantity), Field(json_schema_extra=quantity_schema())
]


class ApiModel(BaseModel):
    """A frozen model with camelCase JSON names.

    Unknown fields are ignored, so that an older version can read objects of a newer one.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def dump(self) -> dict[str, Any]:
        """Return it for the API server: camelCase, plain JSON types, no unset optional fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(ApiModel):
    """An owner. When it is deleted, Kubernetes' garbage collection deletes what it owns."""

    api_version: ShortText
    kind: ShortText
    name: ObjectName
    uid: ShortText
    controller: bool = False


class ObjectMeta(ApiModel):
    """The part of metadata that Transship reads or writes."""

    name: ObjectName
    namespace: ObjectName | None = None
    uid: ShortText = ""
    generation: int = 0
    resource_version: ShortText = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = {}
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[OwnerReference, ...] = ()


class Resource(ApiModel):
    """The base of all kinds: it has the metadata; each kind adds spec and status."""

    metadata: ObjectMeta
