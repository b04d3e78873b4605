"""Converts a pydantic model to the structural OpenAPI v3 schema of a CustomResourceDefinition.

Kubernetes does not accept all that pydantic emits: no references, no titles, no null, and anyOf
only for int-or-string. The API server would store defaults of the schema in every object, so only
marked ones are in it. The others are named in the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from transship.api.base import PERSISTED_DEFAULT

Schema = dict[str, Any]

INT_OR_STRING = "x-kubernetes-int-or-string"
VALIDATIONS = "x-kubernetes-validations"
# keys that pydantic emits and a structural schema must not have
DROPPED = {"title", "$defs", "$ref", "anyOf", "default", "propertyNames", PERSISTED_DEFAULT}


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the schema of a model and of all models in it, without references."""
    emitted = model.model_json_schema(by_alias=True, mode="validation")
    return _Repair(emitted.get("$defs", {})).node(emitted)


@dataclass(frozen=True)
class _Repair:
    """The definitions that references point to."""

    definitions: Mapping[str, Schema]

    def node(self, emitted: Schema) -> Schema:
        source = self._inlined(emitted)
        schema = {key: value for key, value in source.items() if key not in DROPPED}
        schema |= self._children(source)
        if "const" in schema:
            schema["enum"] = [schema.pop("const")]
        if INT_OR_STRING in schema:
            schema.pop("type", None)
        if source.get(PERSISTED_DEFAULT):
            schema["default"] = source["default"]
        if words := _description(source):
            schema["description"] = words
        return dict(sorted(schema.items()))

    def _children(self, source: Schema) -> Schema:
        children: Schema = {}
        if "items" in source:
            children["items"] = self.node(source["items"])
        if isinstance(source.get("additionalProperties"), dict):
            children["additionalProperties"] = self.node(source["additionalProperties"])
        if "properties" in source:
            properties = source["properties"].items()
            children["properties"] = {name: self.node(child) for name, child in properties}
        return children

    def _inlined(self, node: Schema) -> Schema:
        """Replace references and unions with null. The node's own description takes precedence."""
        chosen = [branch for branch in node.get("anyOf", ()) if branch.get("type") != "null"]
        if len(chosen) == 1:
            return _merged(self._inlined(chosen[0]), node)
        if "$ref" in node:
            name = node["$ref"].removeprefix("#/$defs/")
            return _merged(self._inlined(self.definitions[name]), node)
        return node


def _merged(inner: Schema, outer: Schema) -> Schema:
    both = [*inner.get(VALIDATIONS, ()), *outer.get(VALIDATIONS, ())]
    return {**inner, **outer, **({VALIDATIONS: both} if both else {})}


def _description(source: Schema) -> str:
    words = " ".join(str(source.get("description", "")).split())
    default = source.get("default")
    if default in (None, "") or isinstance(default, (dict, list)):
        return words
    if words and not words.endswith("."):
        words += "."
    value = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{words} Default: {value}.".strip()
