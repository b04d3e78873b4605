"""What all models of the API share: the naming, bounded strings and numbers, list types, rules.

Bounds stand on every string, list and number: the API server's cost estimate of a validation rule
needs them, and an unbounded status can outgrow etcd's 1.5 MiB per object. The string literal below
a field is its description, in the schema and in docs/api.md.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from transship.api.quantity import parse_quantity

# a default in the schema is stored with every object: only where a key of a list needs it
PERSISTED_DEFAULT = "x-transship-persisted-default"


def rule(expression: str, message: str) -> dict[str, str]:
    """A CEL rule of the API server; the message says what to write instead."""
    return {"rule": expression, "message": message}


def rules(*several: dict[str, str]) -> dict[str, Any]:
    return {"x-kubernetes-validations": list(several)}


def int32(minimum: int, maximum: int) -> Any:
    return Field(ge=minimum, le=maximum, json_schema_extra={"format": "int32"})


def list_map(*keys: str, max_items: int) -> dict[str, Any]:
    """Say that a list is merged item by item in server-side apply, by these JSON names."""
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
    """As in a Service."""

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
    """Make kubectl take both 2 and "500m"; negative ones are refused."""
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


# "500m", "1.5Gi", 2: as in a Pod; read with api.quantity
Quantity = Annotated[
    str | int, AfterValidator(_readable_quantity), Field(json_schema_extra=quantity_schema())
]


class ApiModel(BaseModel):
    """Frozen, camelCase on the wire.

    Unknown fields are ignored, so that older programs read newer objects.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def dump(self) -> dict[str, Any]:
        """As the API server wants it: camelCase, plain JSON types, unset optionals left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(ApiModel):
    """The owner's end deletes what it owns (the API server's garbage collection)."""

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
    """What every kind is: metadata here, spec and status in the kind itself."""

    metadata: ObjectMeta
