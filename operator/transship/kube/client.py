"""The client of the API server: reads and writes Transship's kinds, as models.

- A status with one writer is applied (server-side apply, forced). A field that the writer no longer
  sends is removed, and fields of other managers stay.
- An AddressPool's status is replaced with a resourceVersion check, because two writers must never
  give out the same address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from loguru import logger
from pydantic import ValidationError

from transship.api import API_VERSION
from transship.api.base import ApiModel, Resource
from transship.api.kinds import kind_of
from transship.api.node_agent import NodeAgent, NodeAgentStatus
from transship.api.reasons import Reason
from transship.common.errors import Conflict, InvalidInput
from transship.kube.listing import Listing, Unreadable, listing_of
from transship.kube.paths import path_of
from transship.kube.transport import ApiServer, ContentType, Request, Transport

R = TypeVar("R", bound=Resource)

OPERATOR_MANAGER = "transship-operator"
AGENT_MANAGER = "transship-agent"
# users and kopf may change metadata between the read and the write
STATUS_ATTEMPTS = 5


class KubeClient:
    """Transship's kinds in one cluster. Every call ends within the transport's time limit."""

    def __init__(self, transport: ApiServer) -> None:
        self.transport = transport
        self._logged: dict[str, str] = {}

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None) -> Self:
        return cls(await Transport.connect(kubeconfig))

    async def close(self) -> None:
        await self.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def get(self, model: type[R], *, name: str, namespace: str | None = None) -> R:
        """Read one object. Raises NotFound if there is none."""
        path = path_of(model, namespace=namespace, name=name)
        doing = f"reading {_called(model, name, namespace)}"
        return _parse(model, await self.transport.send(Request("GET", path, doing)))

    async def list(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> tuple[R, ...]:
        """Return the objects of a kind that can be parsed, by default of all namespaces."""
        listing = await self.listing(
            model, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        return listing.resources

    async def listing(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Listing[R]:
        """Return all objects of a kind, and separately those that cannot be parsed."""
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        query = {key: value for key, value in selectors.items() if value}
        request = Request(
            "GET",
            path_of(model, namespace=namespace),
            f"listing {kind_of(model).plural}",
            query=query,
        )
        answer = await self.transport.send(request)
        listing = listing_of(model, answer.get("items") or ())
        for unreadable in listing.unreadable:
            self._log(unreadable)
        return listing

    def _log(self, unreadable: Unreadable) -> None:
        """Log an object once per version, however often it is listed."""
        if self._logged.get(unreadable.uid) == unreadable.version:
            return
        self._logged[unreadable.uid] = unreadable.version
        what = f"{unreadable.kind} {unreadable.path}"
        logger.warning("{} cannot be read, and is left alone: {}", what, unreadable.error)

    async def create(self, resource: R) -> R:
        """Create an object. Raises Conflict (reason AlreadyExists) if one of this name exists."""
        model, meta = type(resource), resource.metadata
        request = Request(
            "POST",
            path_of(model, namespace=meta.namespace),
            f"creating {_called(model, meta.name, meta.namespace)}",
            body=manifest_of(resource),
        )
        return _parse(model, await self.transport.send(request))

    async def delete(
        self, model: type[R], *, name: str, namespace: str | None = None, uid: str | None = None
    ) -> None:
        """Delete an object. With a uid only that one, not a later one of the same name."""
        preconditions = {"preconditions": {"uid": uid}} if uid else {}
        request = Request(
            "DELETE",
            path_of(model, namespace=namespace, name=name),
            f"deleting {_called(model, name, namespace)}",
            body={"apiVersion": "v1", "kind": "DeleteOptions", **preconditions},
        )
        await self.transport.send(request)

    async def merge_patch(
        self, model: type[R], *, name: str, namespace: str | None = None, patch: Mapping[str, Any]
    ) -> R:
        """Change metadata or spec, as kubectl patch --type=merge does. None removes a field."""
        request = Request(
            "PATCH",
            path_of(model, namespace=namespace, name=name),
            f"changing {_called(model, name, namespace)}",
            body=patch,
            content_type=ContentType.MERGE_PATCH,
        )
        return _parse(model, await self.transport.send(request))

    async def json_patch(
        self,
        model: type[R],
        *,
        name: str,
        namespace: str | None = None,
        patch: Sequence[Mapping[str, Any]],
        subresource: str = "",
    ) -> R:
        """Change it by a JSON patch (RFC 6902). Raises InvalidInput if a test in it fails."""
        suffix = f"/{subresource}" if subresource else ""
        request = Request(
            "PATCH",
            path_of(model, namespace=namespace, name=name) + suffix,
            f"changing {_called(model, name, namespace)}",
            body=patch,
            content_type=ContentType.JSON_PATCH,
        )
        return _parse(model, await self.transport.send(request))

    async def apply_status(
        self,
        model: type[R],
        *,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        status: ApiModel,
        field_manager: str = OPERATOR_MANAGER,
    ) -> R:
        """Apply the status. Fields that this manager wrote before and now omits are removed.

        With a uid, raises Conflict if the object was deleted and created anew. With a
        resource_version, raises Conflict if anybody has changed the object since.
        """
        if resource_version is not None:
            known = {"name": name, "resourceVersion": resource_version}
            return await self._apply_status(
                model, known, namespace=namespace, status=status, manager=field_manager
            )
        attempts_left = STATUS_ATTEMPTS
        while True:
            attempts_left -= 1
            known = await self._identity(model, name=name, namespace=namespace, uid=uid)
            try:
                return await self._apply_status(
                    model, known, namespace=namespace, status=status, manager=field_manager
                )
            except Conflict:
                if attempts_left == 0:
                    raise

    async def _identity(
        self, model: type[R], *, name: str, namespace: str | None, uid: str | None
    ) -> dict[str, str]:
        """Return metadata that match only this object, not a later one of its name."""
        if uid is None:
            return {"name": name}
        # the API server ignores a uid in an applied status, but checks the resourceVersion
        present = await self.get(model, name=name, namespace=namespace)
        if present.metadata.uid == uid:
            return {"name": name, "resourceVersion": present.metadata.resource_version}
        raise Conflict(
            f"writing the status of {_called(model, name, namespace)}: another one has its name",
            reason=Reason.RECREATED,
        )

    async def _apply_status(
        self,
        model: type[R],
        metadata: Mapping[str, str],
        *,
        namespace: str | None,
        status: ApiModel,
        manager: str,
    ) -> R:
        name = metadata["name"]
        request = Request(
            "PATCH",
            path_of(model, namespace=namespace, name=name) + "/status",
            f"writing the status of {_called(model, name, namespace)}",
            query=_applying(manager),
            body=_document(model, metadata, status=status.dump()),
            content_type=ContentType.APPLY_PATCH,
        )
        return _parse(model, await self.transport.send(request))

    async def replace_status_checked(self, resource: R, *, status: ApiModel) -> R:
        """Replace the whole status. Raises Conflict if the object has changed since it was read."""
        model, meta = type(resource), resource.metadata
        identity = {"name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version}
        body = {**manifest_of(resource), "status": status.dump()}
        request = Request(
            "PUT",
            path_of(model, namespace=meta.namespace, name=meta.name) + "/status",
            f"writing the status of {_called(model, meta.name, meta.namespace)}",
            body={**body, "metadata": {**body["metadata"], **identity}},
        )
        return _parse(model, await self.transport.send(request))

    async def apply_node_agent(
        self, *, name: str, status: NodeAgentStatus, labels: Mapping[str, str] | None = None
    ) -> NodeAgent:
        """Create the NodeAgent if it is missing, and set its labels and status, not its spec."""
        request = Request(
            "PATCH",
            path_of(NodeAgent, name=name),
            f"registering node agent {name}",
            query=_applying(AGENT_MANAGER),
            body=_document(NodeAgent, {"name": name, "labels": dict(labels or {})}),
            content_type=ContentType.APPLY_PATCH,
        )
        await self.transport.send(request)
        return await self.apply_status(
            NodeAgent, name=name, status=status, field_manager=AGENT_MANAGER
        )


def manifest_of(resource: Resource) -> dict[str, Any]:
    """Return the object as a user writes it: no status, no field that the API server sets."""
    meta = resource.metadata.dump()
    kept = ("name", "namespace", "labels", "annotations", "finalizers", "ownerReferences")
    spec = resource.dump().get("spec", {})
    return _document(type(resource), {key: meta[key] for key in kept if meta.get(key)}, spec=spec)


def _document(
    model: type[Resource], metadata: Mapping[str, Any], **sections: dict[str, Any]
) -> dict[str, Any]:
    known = {key: value for key, value in metadata.items() if value is not None}
    kind = kind_of(model).name
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": known, **sections}


def _applying(field_manager: str) -> dict[str, str]:
    return {"fieldManager": field_manager, "force": "true"}


def _called(model: type[Resource], name: str, namespace: str | None) -> str:
    return f"{kind_of(model).name} {f'{namespace}/' if namespace else ''}{name}"


def _parse(model: type[R], document: Mapping[str, Any]) -> R:
    try:
        return model.model_validate(document)
    except ValidationError as e:
        name = document.get("metadata", {}).get("name")
        raise InvalidInput(f"reading {kind_of(model).name} {name}: {e}") from e
