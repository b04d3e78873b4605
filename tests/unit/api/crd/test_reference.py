"""docs/api.md says what a user has to know."""

from __future__ import annotations

import pytest

from transship.api.crd.reference import page
from transship.api.kinds import KINDS
from transship.api.reasons import Reason


@pytest.fixture(scope="module")
def text() -> str:
    return page()


def test_every_kind_has_its_chapters(text: str) -> None:
    for kind in KINDS:
        assert f"\n## {kind.name}\n" in text
        assert f"\n### {kind.name}.spec\n" in text
        assert f"\n### {kind.name}.status\n" in text


def test_a_field_has_type_bounds_default_and_description(text: str) -> None:
    (row,) = [line for line in text.splitlines() if line.startswith("| `periodSeconds`")]
    assert row == (
        "| `periodSeconds` | int32 | 1 to 86400 |"
        " The number of seconds between two probes. Default: 10. |"
    )


def test_a_required_field_is_marked(text: str) -> None:
    assert "| `image`* | string |" in text


def test_alternatives_do_not_break_the_table(text: str) -> None:
    assert "| `restartPolicy` | `Always` \\| `OnFailure` \\| `Never` |" in text


def test_a_rule_stands_where_it_holds(text: str) -> None:
    chapter = text.split("\n### ContainerPlacement.spec\n")[1].split("\n### ", maxsplit=1)[0]
    assert "- must not have both targetNode and nodeSelector" in chapter


def test_what_was_told_is_not_told_again(text: str) -> None:
    assert "Its fields are those of ContainerPlacement.spec.container.livenessProbe." in text


def test_every_reason_is_explained(text: str) -> None:
    for reason in Reason:
        assert f"| `{reason}` | {reason.meaning} |" in text
