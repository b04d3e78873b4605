"""From a pydantic model to a structural OpenAPI v3 schema, as CustomResourceDefinitions want it.

Kubernetes takes less than pydantic emits: no references, no titles, no null, no anyOf beside
int-or-string. Defaults stay out of the schema unless marked (they would be stored with every
object); the description tells them. The string literals below fields become descriptions.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from transship.api.base import PERSISTED_DEFAULT

Schema = dict[str, Any]

INT_OR_STRING = "x-kubernetes-int-or-string"
VALIDATIONS = "x-kubernetes-validations"
# what pydantic says and a structural schema must not
DROPPED = ("title", "$defs", "$ref", "anyOf", "default", "propertyNames", PERSISTED_DEFAULT)


def structural_schema(model: type[BaseModel]) -> Schema:
    """The schema of a model, without apiVersion, kind and metadata."""
    emitted = model.model_json_schema(by_alias=True, mode="validation")
    return _repaired(emitted, defs=emitted.get("$defs", {}), models=_models(model))


def _repaired(node: Schema, *, defs: Mapping[str, Schema], models: Models) -> Schema:
    shown, persisted = node.get("default"), node.get(PERSISTED_DEFAULT, False)
    described, node = node.get("description"), _inlined(node, defs)
    repaired = {key: value for key, value in node.items() if key not in DROPPED}
    if "const" in repaired:
        repaired["enum"] = [repaired.pop("const")]
    if "description" in repaired:
        repaired["description"] = _joined(described or repaired["description"])
    if repaired.get(INT_OR_STRING):
        repaired.pop("type", None)
    if persisted:
        repaired["default"] = shown
    elif _worth_telling(shown):
        repaired["description"] = f"{repaired.get('description', '')} Default: {shown}.".strip()
    if "items" in repaired:
        repaired["items"] = _repaired(repaired["items"], defs=defs, models=models)
    if isinstance(repaired.get("additionalProperties"), dict):
        inner = repaired["additionalProperties"]
        repaired["additionalProperties"] = _repaired(inner, defs=defs, models=models)
    if "properties" in repaired:
        repaired["properties"] = _properties(node, defs=defs, models=models)
    return dict(sorted(repaired.items()))
