"""A small API server behind the transport of `kube`: objects by path, versions, conflicts.

It knows creation, replacement under a version, merge patches, and applied statuses of one writer;
no schema, no selectors. What it cannot show is tested against a real one.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, cast

from transship.common.errors import Conflict, NotFound, TransshipError
from transship.kube.leases import Leases
from transship.kube.transport import ContentType, Request


@dataclass
class FakeApiServer:
    """Takes the place of a Transport."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    failing: TransshipError | None = None
    _versions: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    async def close(self) -> None:
        pass

    async def send(self, request: Request) -> dict[str, Any]:
        if self.failing is not None:
            raise self.failing
        path = request.path.removesuffix("/status")
        body = cast("dict[str, Any]", request.body or {}).copy()
        match request.method:
            case "GET":
                return self._get(path)
            case "POST":
                return self._create(f"{path}/{body['metadata']['name']}", body)
            case "PUT":
                return self._replace(path, body, request)
            case "PATCH":
                return self._patch(path, body, request)
            case _:
                return self._delete(path)

    def _get(self, path: str) -> dict[str, Any]:
        if path in self.objects:
            return self.objects[path]
        if path.rsplit("/", 1)[-1] in PLURALS:
            return {"items": [o for at, o in self.objects.items() if at.rsplit("/", 1)[0] == path]}
        raise NotFound(f"{path} not found")

    def _create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path in self.objects:
            raise Conflict(f"{path} exists", reason="AlreadyExists")
        return self._store(path, body, uid=f"uid-{next(self._versions)}")

    def _replace(self, path: str, body: dict[str, Any], request: Request) -> dict[str, Any]:
        present = self._get(path)
        self._check(present, body)
        if request.path.endswith("/status"):
            body = {**present, "status": body["status"]}
        return self._store(path, body, uid=present["metadata"]["uid"])

    def _patch(self, path: str, body: dict[str, Any], request: Request) -> dict[str, Any]:
        applying = request.content_type is ContentType.APPLY_PATCH
        if path not in self.objects and applying and not request.path.endswith("/status"):
            return self._create(path, body)
        present = self._get(path)
        self._check(present, body)
        metadata = {**present["metadata"], **body.get("metadata", {})}
        return self._store(path, {**present, **body, "metadata": metadata}, uid=metadata["uid"])

    def _delete(self, path: str) -> dict[str, Any]:
        return self.objects.pop(path)

    def _store(self, path: str, body: dict[str, Any], *, uid: str) -> dict[str, Any]:
        version = str(next(self._versions))
        metadata = {**body["metadata"], "resourceVersion": version, "uid": uid}
        self.objects[path] = {**body, "metadata": metadata}
        return self.objects[path]

    def _check(self, present: dict[str, Any], body: dict[str, Any]) -> None:
        expected = body.get("metadata", {}).get("resourceVersion")
        if expected not in (None, present["metadata"]["resourceVersion"]):
            raise Conflict("the object has been modified")


PLURALS = {
    "containerplacements",
    "containermigrations",
    "nodeagents",
    "addresspools",
    "leases",
    "events",
}


async def holder(leases: Leases, name: str) -> str:
    """Who holds a lease now."""
    return next(each.holder for each in await leases.list() if each.name == name)
