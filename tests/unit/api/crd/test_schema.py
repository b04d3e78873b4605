"""The converter's repairs, and the conventions that every schema of ours keeps."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from transship.api.base import (
    PERSISTED_DEFAULT,
    ApiModel,
    Quantity,
    int32,
    list_atomic,
    rule,
    rules,
)
from transship.api.crd.definitions import root_schema
from transship.api.crd.schema import Schema, structural_schema
from transship.api.kinds import KINDS, Kind


class Colour(StrEnum):
    """A colour."""

    RED = "Red"
    BLUE = "Blue"


class Inner(ApiModel):
    """What is inside."""

    model_config = ConfigDict(json_schema_extra=rules(rule("inner", "inside")))

    colour: Colour = Colour.RED


class Outer(ApiModel):
    """All that the converter has to repair."""

    plain_name: str
    """Two
    lines."""
    inner: Inner = Inner()
    ruled: Annotated[Inner, Field(json_schema_extra=rules(rule("outer", "outside")))]
    maybe: Inner | None = None
    number: Annotated[int, int32(1, 5)] = 3
    flag: bool = False
    kept: Annotated[Colour, Field(json_schema_extra={PERSISTED_DEFAULT: True})] = Colour.BLUE
    literal: Literal["Only"] = "Only"
    quantity: Quantity | None = None
    title: str = ""
    several: Annotated[tuple[Inner, ...], Field(**list_atomic(max_items=3))] = ()
    table: dict[str, Annotated[str, Field(max_length=3)]] = {}


@pytest.fixture(scope="module")
def fields() -> dict[str, Schema]:
    properties: dict[str, Schema] = structural_schema(Outer)["properties"]
    return properties


def test_a_reference_is_written_out(fields: dict[str, Schema]) -> None:
    assert fields["inner"] == {
        "description": "What is inside.",
        "properties": {
            "colour": {
                "description": "A colour. Default: Red.",
                "enum": ["Red", "Blue"],
                "type": "string",
            }
        },
        "type": "object",
        "x-kubernetes-validations": [{"rule": "inner", "message": "inside"}],
    }


def test_an_optional_field_is_its_type_without_null(fields: dict[str, Schema]) -> None:
    assert fields["maybe"] == fields["inner"]


def test_rules_of_a_field_join_those_of_its_type(fields: dict[str, Schema]) -> None:
    assert [r["rule"] for r in fields["ruled"]["x-kubernetes-validations"]] == ["inner", "outer"]


def test_a_default_is_told_but_not_stored(fields: dict[str, Schema]) -> None:
    assert fields["number"] == {
        "description": "Default: 3.",
        "format": "int32",
        "maximum": 5,
        "minimum": 1,
        "type": "integer",
    }
    assert fields["flag"]["description"] == "Default: false."


def test_a_default_that_is_marked_is_stored(fields: dict[str, Schema]) -> None:
    assert fields["kept"]["default"] == "Blue"


def test_descriptions_are_one_line(fields: dict[str, Schema]) -> None:
    assert fields["plainName"]["description"] == "Two lines."


def test_a_quantity_is_a_number_or_a_word(fields: dict[str, Schema]) -> None:
    assert fields["quantity"]["x-kubernetes-int-or-string"] is True
    assert "type" not in fields["quantity"]


def test_a_single_literal_is_an_enumeration(fields: dict[str, Schema]) -> None:
    assert fields["literal"]["enum"] == ["Only"]


def test_a_field_called_title_stays(fields: dict[str, Schema]) -> None:
    assert "title" in fields


def test_only_fields_without_a_default_are_required() -> None:
    assert sorted(structural_schema(Outer)["required"]) == ["plainName", "ruled"]


ALLOWED = {
    "additionalProperties", "default", "description", "enum", "format", "items", "maxItems",
    "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minimum", "pattern",
    "properties", "required", "type", "x-kubernetes-int-or-string", "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type", "x-kubernetes-validations",
}  # fmt: skip


def nodes(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        if path or name in {"spec", "status"}:  # of metadata the API server knows more
            yield from nodes(f"{path}.{name}", child)
    for inside in ("items", "additionalProperties"):
        if inside in schema:
            yield from nodes(f"{path}[]", schema[inside])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_part_keeps_the_conventions(kind: Kind) -> None:
    broken = [
        f"{path}: {complaint}"
        for path, schema in nodes("", root_schema(kind))
        for complaint in complaints(schema)
    ]
    assert broken == []


NEEDED: dict[str, set[str]] = {
    "string": {"maxLength"},
    "integer": {"minimum", "maximum", "format"},
    "array": {"maxItems", "items", "x-kubernetes-list-type"},
    "object": {"properties"},
    "boolean": set(),
}


def complaints(schema: Schema) -> Iterator[str]:
    if unknown := set(schema) - ALLOWED:
        yield f"not structural: {unknown}"
    if missing := bounds_of(schema) - set(schema):
        yield f"lacks {missing}"
    keyed = schema.get("items", {}).get("properties", {})
    for key in schema.get("x-kubernetes-list-map-keys", ()):
        if key not in schema["items"].get("required", ()) and "default" not in keyed[key]:
            yield f"key {key} is neither required nor has it a default"
    for validation in schema.get("x-kubernetes-validations", ()):
        if not validation["message"] or "\n" in validation["message"]:
            yield f"message of {validation['rule']}"


def bounds_of(schema: Schema) -> set[str]:
    match schema:
        case {"x-kubernetes-int-or-string": True}:
            return {"maxLength"}
        case {"enum": _} | {"format": "date-time"}:
            return set()
        case {"additionalProperties": _}:
            return {"maxProperties"}
        case _:
            return NEEDED[schema["type"]]


def test_only_keys_of_lists_have_stored_defaults() -> None:
    defaulted = {
        f"{kind.name}{path}"
        for kind in KINDS
        for path, schema in nodes("", root_schema(kind))
        if "default" in schema
    }
    assert defaulted == {"ContainerPlacement.spec.container.ports[].protocol"}


def test_descriptions_stand_on_every_object_of_a_spec() -> None:
    silent = [
        f"{kind.name}{path}"
        for kind in KINDS
        for path, schema in nodes("", root_schema(kind))
        if schema.get("type") == "object" and not schema.get("description")
    ]
    assert silent == []


def test_a_model_without_fields_is_an_object() -> None:
    class Empty(BaseModel):
        """Nothing."""

    assert structural_schema(Empty) == {
        "description": "Nothing.",
        "properties": {},
        "type": "object",
    }
