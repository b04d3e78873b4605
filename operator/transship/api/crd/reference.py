"""docs/api.md: a readable reference of every kind, from the same schema as its CRD.

Each object of the schema has a table, named by its path, with its rules below. An object that
occurs again refers to the first table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from transship.api import API_VERSION
from transship.api.crd.definitions import CATEGORY, root_schema
from transship.api.crd.schema import VALIDATIONS, Schema
from transship.api.kinds import KINDS, Kind
from transship.api.reasons import Reason

INTRODUCTION = f"""\
<!-- Generated from the models in operator/transship/api by `make crds`; do not edit. -->
# API reference

All kinds have the API version `{API_VERSION}` and the category `{CATEGORY}`
(`kubectl get {CATEGORY}`). `kubectl explain` prints the same descriptions. A field marked * is
required.
"""
TABLE = "| field | type | bounds | description |\n|---|---|---|---|\n"
BOUNDS = (
    ("minLength", "length from"),
    ("maxLength", "length up to"),
    ("minItems", "items from"),
    ("maxItems", "items up to"),
    ("maxProperties", "entries up to"),
)


def page() -> str:
    contents = [f"- [{name}](#{name.lower()})" for name in (*(k.name for k in KINDS), "Reasons")]
    described: dict[str, str] = {}
    sections = [section for kind in KINDS for section in _kind(kind, described)]
    return "\n".join([INTRODUCTION, "\n".join(contents) + "\n", *sections, _reasons()])


def _kind(kind: Kind, described: dict[str, str]) -> Iterator[str]:
    """Yield the section of a kind.

    described: the paths of all objects that have a table, by their fields as JSON.
    """
    schema = root_schema(kind)
    scope = "namespaced" if kind.namespaced else "cluster-wide"
    words = ", ".join(f"`{word}`" for word in (kind.plural, *kind.short_names))
    yield f"## {kind.name}\n\n{schema['description']}\n\nFor kubectl: {words}; {scope}.\n"
    yield from _messages(schema)
    for part in ("spec", "status"):
        yield from _object(f"{kind.name}.{part}", schema["properties"][part], described)


def _object(path: str, schema: Schema, described: dict[str, str]) -> Iterator[str]:
    """Yield an object's table, then those of the objects inside it."""
    properties: Mapping[str, Schema] = schema["properties"]
    yield f"### {path}\n\n{schema.get('description', '')}\n"
    fingerprint = json.dumps(properties, sort_keys=True)
    if fingerprint in described:
        yield f"Its fields are those of {described[fingerprint]}.\n"
        return
    described[fingerprint] = path
    required = set(schema.get("required", ()))
    if properties:
        rows = [_row(name, field, name in required) for name, field in properties.items()]
        yield TABLE + "\n".join(rows) + "\n"
    yield from _messages(schema)
    for name, field in properties.items():
        inner = field.get("items", field)
        if inner.get("properties"):
            yield from _object(f"{path}.{name}{'[]' if 'items' in field else ''}", inner, described)


def _row(name: str, field: Schema, required: bool) -> str:
    leaf = not field.get("properties")
    rules = [rule["message"] for rule in field.get(VALIDATIONS, ()) if leaf]
    notes = [str(field.get("description", "")), *rules]
    text = " ".join(note[:1].upper() + note[1:].rstrip(".") + "." for note in notes if note)
    cells = (f"`{name}`{'*' if required else ''}", _type(field), _bounds(field), text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _messages(schema: Schema) -> Iterator[str]:
    if rules := schema.get(VALIDATIONS, ()):
        yield "Rules:\n\n" + "".join(f"- {rule['message']}\n" for rule in rules)


def _type(field: Schema) -> str:
    match field:
        case {"x-kubernetes-int-or-string": True}:
            return "quantity"
        case {"enum": [*values]}:
            return " | ".join(f"`{value}`" if value else '`""`' for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}"
        case {"additionalProperties": values}:
            return f"map of {_type(values)}"
        case {"format": "date-time"}:
            return "time"
        case _:
            return str(field.get("format", field["type"]))


def _bounds(field: Schema) -> str:
    bounds = [_range(field), *(f"{words} {field[key]}" for key, words in BOUNDS if key in field)]
    if "pattern" in field:
        bounds.append(f"`{field['pattern']}`")
    return ", ".join(part for part in bounds if part)


def _range(field: Schema) -> str:
    minimum: Any = field.get("minimum")
    return "" if minimum is None else f"{minimum} to {field['maximum']}"


def _reasons() -> str:
    rows = [f"| `{reason}` | {reason.meaning} | {reason.hint} |" for reason in Reason]
    head = "## Reasons\n\nThe reasons of conditions, events, migrations and errors.\n\n"
    return head + "| reason | meaning | what to do |\n|---|---|---|\n" + "\n".join(rows) + "\n"
