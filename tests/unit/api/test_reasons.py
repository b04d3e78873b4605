"""The table of reasons: every reason in the code is in it, and each of its reasons is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import sources
from transship.api.reasons import Reason
from transship.common import errors

WORDS = {reason.value for reason in Reason}


def test_a_reason_is_one_word_named_as_its_member() -> None:
    for reason in Reason:
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", reason)
        assert reason.name.replace("_", "").lower() == reason.value.lower()


def test_a_reason_has_a_sentence_and_perhaps_a_hint() -> None:
    for reason in Reason:
        assert reason.meaning[0].isupper(), reason
        assert reason.meaning.endswith("."), reason
        assert not reason.hint.endswith("."), reason


def test_no_word_occurs_twice() -> None:
    assert len(WORDS) == len(Reason.__members__)


def test_every_error_has_a_reason_of_the_table() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind.reason for kind in kinds if issubclass(kind, errors.TransshipError)} <= WORDS


def test_every_reason_in_the_code_is_in_the_table() -> None:
    strangers = [
        f"{path}:{line}: {word}"
        for path, tree in sources.trees().items()
        for line, word in literal_reasons(tree)
        if word not in WORDS
    ]
    assert strangers == []


def test_every_reason_is_used() -> None:
    others = [tree for path, tree in sources.trees().items() if path != "api/reasons.py"]
    words = {word for tree in others for _, word in literal_reasons(tree)}
    members = {name for tree in others for name in members_used(tree)}
    unused = [
        reason.name for reason in Reason if reason not in words and reason.name not in members
    ]
    assert unused == []


def members_used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="Reason"), attr=name):
                yield name
            case _:
                pass


def literal_reasons(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The words given as `reason=`, and the class attributes of that name."""
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="reason", value=ast.Constant(value=str(word))) if word:
                yield node.value.lineno, word
            case ast.Assign(
                targets=[ast.Name(id="reason")], value=ast.Constant(value=str(word))
            ) if word:
                yield node.lineno, word
            case _:
                pass
