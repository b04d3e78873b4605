"""The CustomResourceDefinitions of all kinds, made from the models and the table of kinds."""

from __future__ import annotations

from typing import Any

import yaml

from transship.api import GROUP, VERSION
from transship.api.crd.schema import Schema, structural_schema
from transship.api.kinds import KINDS, Column, Kind

CATEGORY = "transship"
GENERATED = "# Generated from the models in operator/transship/api by `make crds`; do not edit.\n"


def crd(kind: Kind) -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name},
        "spec": {
            "group": GROUP,
            "names": _names(kind),
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [_version(kind)],
        },
    }


def root_schema(kind: Kind) -> Schema:
    """Return the schema of the whole object. The API server adds the schema of metadata."""
    schema = structural_schema(kind.model)
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": schema["properties"]["spec"],
        "status": schema["properties"]["status"],
    }
    required = [name for name in schema["required"] if name != "metadata"]
    return {
        **{key: value for key, value in schema.items() if key != "required"},
        "properties": properties,
        **({"required": required} if required else {}),
    }


def manifests() -> dict[str, str]:
    """Return the names and contents of the files in crds/."""
    files = {f"{kind.crd_name}.yaml": yaml_file(crd(kind)) for kind in KINDS}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(files),
    }
    # kubectl apply -f crds/ ignores a file without an extension, and -k crds/ reads it
    return {**files, "Kustomization": yaml_file(kustomization)}


def _names(kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "plural": kind.plural,
        "singular": kind.singular,
        "shortNames": list(kind.short_names),
        "categories": [CATEGORY],
    }


def _version(kind: Kind) -> dict[str, Any]:
    selectable = [{"jsonPath": path} for path in kind.selectable_fields]
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root_schema(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
        **({"selectableFields": selectable} if selectable else {}),
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type.value,
        "jsonPath": column.path,
        **({"description": column.description} if column.description else {}),
        **({"priority": 1} if column.wide else {}),
    }


def yaml_file(*documents: dict[str, Any]) -> str:
    """Return the content of a generated file with these documents."""
    bodies = (
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
        for document in documents
    )
    return GENERATED + "---\n".join(bodies)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors: people and tools do not expect them in a manifest."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
