"""The package's own source, for tests about it: its files, and which fields of a class are read.

Classes are told apart as far as annotations say: of parameters, of fields, and `self`. What they do
not tell counts for every class that has a field of that name.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "operator" / "transship"

Types = dict[str, str]
"""Names, and the class of each."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> Mapping[str, ast.Module]:
    """Every module, by its path inside the package."""
    return {
        str(path.relative_to(PACKAGE)): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@dataclass
class Reads:
    """Fields that are read, of which class where that is known."""

    of_class: set[tuple[str, str]] = field(default_factory=set)
    of_any: set[str] = field(default_factory=set)

    def has(self, owner: str, name: str) -> bool:
        return name in self.of_any or (owner, name) in self.of_class


@cache
def reads(packages: tuple[str, ...]) -> Reads:
    """What these packages read, and every class of itself."""
    found, fields = Reads(), _fields()
    for path, tree in trees().items():
        inside = path.startswith(tuple(f"{package}/" for package in packages))
        for owner, node, types in _scopes(tree, None, {}):
            if isinstance(node, ast.MatchClass) and inside:
                found.of_any.update(node.kwd_attrs)
            if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
                continue
            kind = _class_of(node.value, types, fields)
            if kind is not None and node.attr in fields[kind] and (inside or kind == owner):
                found.of_class.add((kind, node.attr))
            elif inside:
                found.of_any.add(node.attr)
    return found


def _scopes(
    node: ast.AST, owner: str | None, types: Types
) -> Iterator[tuple[str | None, ast.AST, Types]]:
    """Every node with the class around it, and the names that have a known class there."""
    for child in ast.iter_child_nodes(node):
        inside, known = owner, types
        if isinstance(child, ast.ClassDef):
            inside = child.name
        elif isinstance(child, Function):
            known = {**types, **_parameters(child)}
            if owner is not None:
                known["self"] = owner
        yield inside, child, known
        yield from _scopes(child, inside, known)


def _class_of(node: ast.expr, types: Types, fields: Mapping[str, Types]) -> str | None:
    match node:
        case ast.Name(id=name):
            kind = types.get(name)
        case ast.Attribute(value=value, attr=name):
            kind = fields.get(_class_of(value, types, fields) or "", {}).get(name)
        case _:
            kind = None
    return kind if kind in fields else None


@cache
def _fields() -> Mapping[str, Types]:
    """The annotated fields of every class; those of classes of one name are taken together."""
    found: dict[str, Types] = defaultdict(dict)
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found[node.name] |= {
                    each.target.id: _named(each.annotation)
                    for each in node.body
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                }
    return found


def _parameters(function: Function) -> Types:
    arguments = function.args
    return {
        each.arg: _named(each.annotation)
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        if each.annotation is not None
    }


def _named(annotation: ast.expr) -> str:
    """The class itself, or with None."""
    return ast.unparse(annotation).removesuffix(" | None")
