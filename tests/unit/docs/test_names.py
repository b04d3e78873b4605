"""Files, modules and functions that the documentation names exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
PACKAGE = REPOSITORY / "operator" / "transship"
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
FENCE = re.compile(r"```.*?```", re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
SUFFIXES = (".py", ".md", ".yaml", ".json", ".c", ".toml")
TOP_FOLDERS = ("docs", "tests", "manifests", "crds", "operator")
SUBPACKAGES = tuple(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def named_in(page: Path) -> set[str]:
    return set(CODE.findall(FENCE.sub("", page.read_text())))


def paths_in(page: Path) -> Iterator[str]:
    """Return what looks like a path of the repository or of the package."""
    for name in named_in(page):
        first, slash, _ = name.partition("/")
        if slash and re.fullmatch(r"[\w./-]+", name) and first in (*SUBPACKAGES, *TOP_FOLDERS):
            yield name


def dotted_in(page: Path) -> Iterator[str]:
    """Return what looks like a module of the package, or a name in one."""
    for name in named_in(page):
        is_dotted = re.fullmatch(r"\w+(\.\w+)+", name) and not name.endswith(SUFFIXES)
        if is_dotted and name.split(".")[0] in SUBPACKAGES:
            yield name


@cache
def names_of(module: Path) -> frozenset[str]:
    """Return the functions, classes, methods and constants of a module, with dots."""
    return frozenset(_names(ast.parse(module.read_text()).body, ""))


def _names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.ClassDef(name=name, body=inner):
                yield prefix + name
                yield from _names(inner, f"{prefix}{name}.")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
            case _:
                pass


def is_dotted_name(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place, rest = PACKAGE.joinpath(*parts[:length]), ".".join(parts[length:])
        module = place.with_suffix(".py") if length else place
        if place.is_dir() and (not rest or rest in names_of(place / "__init__.py")):
            return True
        if module.is_file():
            return not rest or rest in names_of(module)
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    missing = [
        name
        for name in sorted(paths_in(page))
        if not (REPOSITORY / name).exists() and not (PACKAGE / name).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_function_exists(page: Path) -> None:
    assert [name for name in sorted(dotted_in(page)) if not is_dotted_name(name)] == []


def test_the_page_of_places_names_many_of_them() -> None:
    page = REPOSITORY / "docs" / "where.md"
    assert len(list(paths_in(page))) > 40
    assert len(list(dotted_in(page))) > 40


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert is_dotted_name("controller.placement.decide.decide")
    assert not is_dotted_name("controller.placement.decide.undecide")
    assert not is_dotted_name("controller.nowhere.decide")
