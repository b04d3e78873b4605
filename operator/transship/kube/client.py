"""The client of the API server: reads and writes of our kinds, as models.

Who writes what, and how:
- a status that has one writer is applied (server-side apply, forced): a field that the writer no
  longer sends is removed, fields of other managers stay;
- an AddressPool's status is replaced under a resourceVersion check, because two writers must
  never give out the same address.
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
STATUS_ATTEMPTS = 5  # users and kopf change metadata between our read and our write


class KubeClient:
    """Our kinds in one cluster. Every call ends within the transport's deadline."""

    def __init__(self, transport: ApiServer) -> None:
        self.transport = transport
        self._told: dict[str, str] = {}

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
        """Raise NotFound where there is none."""
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
        """All objects of a kind that can be read, of every namespace unless one is named."""
        found = await self.listing(
            model, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        return found.resources

    async def listing(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Listing[R]:
        """All objects of a kind, those that cannot be read told of apart."""
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        query = {key: value for key, value in selectors.items() if value}
        request = Request(
            "GET",
            path_of(model, namespace=namespace),
            f"listing {kind_of(model).plural}",
            query=query,
        )
        answer = await self.transport.send(request)
        found = listing_of(model, answer.get("items") or ())
        for each in found.unreadable:
            self._tell(each)
        return found

    def _tell(self, unreadable: Unreadable) -> None:
        """Once per version of an object, however often it is listed."""
        if self._told.get(unreadable.uid) == unreadable.version:
            return
        self._told[unreadable.uid] = unreadable.version
        logger.warning(
            "{} {} cannot be read, and is left alone: {}",
            unreadable.kind, unreadable.path, unreadable.error,
        )  # fmt: skip

    async def create(self, resource: R) -> R:
        """Raise Conflict (reason AlreadyExists) where one of this name exists."""
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
        """Delete it; with a uid only that very object, not a later one of the same name."""
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
        """Change fields of metadata or spec as kubectl patch --type=merge does (None removes)."""
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
        """Change it as RFC 6902 says; InvalidInput when a test in the patch does not hold."""
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
        """Make the status what is given: what this manager wrote and now leaves out is removed.

        With a uid it is a Conflict when the object was deleted and made anew meanwhile, with a
        resource_version when it was changed by anybody since.
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
        """Name the object in a way that no later one of its name fits."""
        if uid is None:
            return {"name": name}
        # the API server ignores a uid in an applied status: the version of the object stands for it
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
        """Replace the whole status of the object as it was read; Conflict when it changed since."""
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
        """Register the agent: made when missing, its labels and status set; spec is the users'."""
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
    """The object as a user would write it: no status, nothing that the API server fills in."""
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
