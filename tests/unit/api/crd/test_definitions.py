"""The definitions: up to date in the repository, and consistent with their schemas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from transship.api.crd import generate
from transship.api.crd.definitions import crd, manifests, root_schema
from transship.api.kinds import KINDS, Column, ColumnType, Kind, kind_of
from transship.api.placement import ContainerPlacement

ROOT = Path(__file__).parents[4]

# words that kubectl and well-known neighbours use already
TAKEN = {
    "cm", "cs", "csr", "deploy", "ds", "ep", "ev", "hpa", "ing", "limits", "netpol", "no", "ns",
    "pc", "pdb", "po", "pv", "pvc", "quota", "rc", "rs", "sa", "sc", "sts", "svc", "crd", "crds",
    "node", "nodes", "pod", "pods", "vmi", "vmim", "cert", "certs", "pool", "pools",
}  # fmt: skip


def test_the_generated_files_are_up_to_date() -> None:
    assert generate.stale(ROOT) == [], "run make crds"


def test_writing_brings_a_folder_up_to_date(tmp_path: Path) -> None:
    (tmp_path / "crds").mkdir()
    (tmp_path / "crds" / "old.transship.dev.yaml").write_text("")
    generate.write(tmp_path)
    assert generate.stale(tmp_path) == []
    assert not (tmp_path / "crds" / "old.transship.dev.yaml").exists()


def test_a_file_that_was_edited_by_hand_is_stale(tmp_path: Path) -> None:
    generate.write(tmp_path)
    edited = tmp_path / "crds" / "Kustomization"
    edited.write_text(edited.read_text() + "\n")
    assert generate.stale(tmp_path) == [Path("crds/Kustomization")]


def test_no_two_kinds_share_a_word() -> None:
    words = [w for k in KINDS for w in (k.singular, k.plural, *k.short_names)]
    assert len(set(words)) == len(words)
    assert not TAKEN & set(words)


def test_the_model_finds_its_kind() -> None:
    assert kind_of(ContainerPlacement).plural == "containerplacements"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_definition_is_complete(kind: Kind) -> None:
    definition = crd(kind)
    names = definition["spec"]["names"]
    (version,) = definition["spec"]["versions"]
    assert definition["metadata"]["name"] == f"{names['plural']}.transship.dev"
    assert names["singular"] == kind.name.lower()
    assert names["categories"] == ["transship"]
    assert version["subresources"] == {"status": {}}
    assert version["additionalPrinterColumns"][-1]["name"] == "Age"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_status_tells_its_generation_and_its_conditions_first(kind: Kind) -> None:
    status = list(root_schema(kind)["properties"]["status"]["properties"])
    assert status[:2] == ["conditions", "observedGeneration"]


COLUMNS = [
    pytest.param(kind, column, id=f"{kind.name}-{column.name}")
    for kind in KINDS
    for column in kind.columns
    if column.type is not ColumnType.DATE
]


@pytest.mark.parametrize(("kind", "column"), COLUMNS)
def test_a_column_shows_a_field_of_its_type(kind: Kind, column: Column) -> None:
    assert at(root_schema(kind), column.path)["type"] == column.type.value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_selectable_fields_are_strings(kind: Kind) -> None:
    for path in kind.selectable_fields:
        assert at(root_schema(kind), path)["type"] == "string"


def test_the_files_are_plain_yaml_and_say_that_they_are_generated() -> None:
    for content in manifests().values():
        assert content.startswith("# Generated")
        assert "&id" not in content
        assert yaml.safe_load(content)["kind"]


def at(schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Follow a JSONPath of printer columns through a schema."""
    for part in re.split(r"\.(?![^\[]*\])", path.removeprefix(".")):
        schema = schema["properties"][part.split("[")[0]]
        if "[" in part:
            schema = schema["items"]
    return schema
