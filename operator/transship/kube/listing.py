"""Listings: all objects of a kind, including those that this version cannot parse.

Another version of Transship may have written an object that the models refuse. It must not hide the
others. It also exists: code that acts on missing objects must know it.
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
    """An object that exists and cannot be parsed. `error` says why."""

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
    """The objects of a kind. Both fields together are all of them."""

    resources: tuple[R, ...]
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def uids(self) -> frozenset[str]:
        """The UIDs of all objects, readable or not."""
        readable = {resource.metadata.uid for resource in self.resources}
        return frozenset(readable | {unreadable.uid for unreadable in self.unreadable})


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
