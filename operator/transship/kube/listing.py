"""Listing: all objects of a kind, those that this version cannot read among them.

Another version of us may have written what our models refuse. One such object must not hide the
others, and is not gone either: whoever acts on what is missing has to know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from transship.api.base import Resource
from transship.api.kinds import kind_of

R = TypeVar("R", bound=Resource)


@dataclass(frozen=True)
class Unreadable:
    """An object that is there and cannot be read; `error` says why."""

    kind: str
    name: str
    namespace: str | None
    uid: str
    version: str
    error: str

    @property
    def path(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True)
class Listing(Generic[R]):
    """What was found. Together they are everything that there is."""

    resources: tuple[R, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def uids(self) -> frozenset[str]:
        """Of everything, readable or not."""
        readable = {resource.metadata.uid for resource in self.resources}
        return frozenset(readable | {each.uid for each in self.unreadable})


def listing_of(model: type[R], documents: Iterable[Mapping[str, Any]]) -> Listing[R]:
    resources: list[R] = []
    unreadable: list[Unreadable] = []
    for document in documents:
        try:
            resources.append(model.model_validate(document))
        except ValidationError as e:
            unreadable.append(_unreadable(model, document.get("metadata") or {}, e))
    return Listing(tuple(resources), tuple(unreadable))


def _unreadable(
    model: type[Resource], metadata: Mapping[str, Any], error: ValidationError
) -> Unreadable:
    return Unreadable(
        kind=kind_of(model).name,
        name=metadata.get("name", ""),
        namespace=metadata.get("namespace"),
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
        error=str(error),
    )
