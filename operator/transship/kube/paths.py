"""URL paths of objects and lists on the API server."""

from __future__ import annotations

from urllib.parse import quote

from transship.api import API_VERSION
from transship.api.base import Resource
from transship.api.kinds import kind_of
from transship.common.errors import InvalidInput


def path_of(model: type[Resource], *, namespace: str | None = None, name: str | None = None) -> str:
    """Return the path of an object of Transship's kinds, or without a name that of the list."""
    kind = kind_of(model)
    if kind.namespaced and name is not None and not namespace:
        raise InvalidInput(f"{kind.name} {name}: a namespace is needed")
    return path(
        f"/apis/{API_VERSION}",
        kind.plural,
        namespace=namespace if kind.namespaced else None,
        name=name,
    )


def path(root: str, plural: str, *, namespace: str | None = None, name: str | None = None) -> str:
    within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{within}/{plural}" + (f"/{quote(name, safe='')}" if name else "")
