"""A cluster in memory, as models: versions, generations, finalizers, selectors, owner references.

What a real API server does to objects of ours is tested against a real one; here it is what the
operator's loops depend on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import jsonpatch

from transship.api.base import ApiModel, Resource
from transship.api.kinds import kind_of
from transship.common.errors import Conflict, InvalidInput, NotFound, TransshipError
from transship.controller.ports import DataKind
from transship.kube.listing import Listing, Unreadable

R = TypeVar("R", bound=Resource)
Key = tuple[str, str | None, str]


class FakeCluster:
    def __init__(self) -> None:
        self.objects: dict[Key, Resource] = {}
        self.listener: Callable[[Resource, bool], None] = lambda resource, gone: None
        self.failing: dict[str, TransshipError] = {}  # by call, or by call and name
        self.unreadable: list[Unreadable] = []
        self.contested = False  # every other write finds that somebody else was faster
        self.conflicts = 0
        self.status_writes = 0
        self._contests: dict[str, int] = {}
        self._versions = itertools.count(1)
        self._uids = itertools.count(1)

    def find(self, model: type[R], name: str, namespace: str | None = "default") -> R | None:
        found = self.objects.get((kind_of(model).name, namespace, name))
        return found if isinstance(found, model) else None

    def all(self, model: type[R]) -> list[R]:
        return [o for o in self.objects.values() if isinstance(o, model)]

    def put(self, resource: R, **metadata: Any) -> R:
        """Store it, as created or changed by somebody else."""
        version = {"resource_version": str(next(self._versions)), **metadata}
        meta = resource.metadata.model_copy(update=version)
        stored = resource.model_copy(update={"metadata": meta})
        self.objects[_key(stored)] = stored
        self.listener(stored, False)
        return stored

    def edit(self, model: type[R], name: str, **spec: Any) -> R:
        """What kubectl patch does to a spec."""
        present = self.find(model, name)
        assert present is not None
        document = present.model_dump(by_alias=False)
        changed = {**document["spec"], **spec}
        edited = type(present).model_validate({**document, "spec": changed})
        return self.put(edited, generation=present.metadata.generation + 1)

    async def get(self, model: type[R], *, name: str, namespace: str | None = None) -> R:
        self._may_fail("get")
        found = self.find(model, name, namespace)
        if found is None:
            raise NotFound(f"no {model.__name__} {name}")
        return found

    async def list(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> tuple[R, ...]:
        self._may_fail("list")
        wanted = dict(pair.split("=") for pair in label_selector.split(",") if pair)
        return tuple(
            o for o in self.all(model)
            if namespace in {None, o.metadata.namespace}
            and wanted.items() <= o.metadata.labels.items()
        )  # fmt: skip

    async def listing(
        self,
        model: type[R],
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> Listing[R]:
        found = await self.list(model, namespace=namespace, label_selector=label_selector)
        kind = kind_of(model).name
        unreadable = tuple(each for each in self.unreadable if each.kind == kind)
        hidden = {each.uid for each in unreadable}
        return Listing(tuple(o for o in found if o.metadata.uid not in hidden), unreadable)

    async def create(self, resource: R) -> R:
        self._may_fail("create")
        if _key(resource) in self.objects:
            raise Conflict("it exists", reason="AlreadyExists")
        uid = resource.metadata.uid or f"made-{next(self._uids)}"
        now = datetime.now(UTC)
        return self.put(resource, uid=uid, generation=1, creation_timestamp=now)

    async def delete(
        self, model: type[R], *, name: str, namespace: str | None = None, uid: str | None = None
    ) -> None:
        self._may_fail("delete")
        found = await self.get(model, name=name, namespace=namespace)
        if uid is not None and uid != found.metadata.uid:
            raise Conflict("another object has that name")
        if found.metadata.deletion_timestamp is not None:
            return
        if found.metadata.finalizers:
            self.put(found, deletion_timestamp=datetime.now(UTC))
        else:
            self._remove(found)

    async def json_patch(
        self,
        model: type[R],
        *,
        name: str,
        namespace: str | None = None,
        patch: Sequence[Mapping[str, Any]],
        subresource: str = "",
    ) -> R:
        self._may_fail("json_patch", name)
        found = await self.get(model, name=name, namespace=namespace)
        try:
            changed = jsonpatch.JsonPatch(patch).apply(found.dump())
        except jsonpatch.JsonPatchException as e:
            raise InvalidInput(str(e)) from e
        after = model.model_validate(changed)
        added = {*after.metadata.finalizers} - {*found.metadata.finalizers}
        if added and found.metadata.deletion_timestamp is not None:
            raise InvalidInput("no new finalizers can be added if the object is being deleted")
        patched = self.put(after)
        if patched.metadata.deletion_timestamp is not None and not patched.metadata.finalizers:
            self._remove(patched)
        return patched

    async def apply_status(
        self,
        model: type[R],
        *,
        name: str,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        status: ApiModel,
    ) -> R:
        self._may_fail("apply_status", name)
        found = await self.get(model, name=name, namespace=namespace)
        if uid not in {None, found.metadata.uid}:
            raise Conflict("another object has that name")
        if resource_version not in {None, found.metadata.resource_version}:
            raise Conflict("it was changed")
        self.status_writes += 1
        document = {**found.dump(), "status": status.dump()}
        return self.put(model.model_validate(document))

    async def replace_status_checked(self, resource: R, *, status: ApiModel) -> R:
        return await self.apply_status(
            type(resource),
            name=resource.metadata.name,
            namespace=resource.metadata.namespace,
            uid=resource.metadata.uid or None,
            resource_version=resource.metadata.resource_version,
            status=status,
        )

    def _may_fail(self, call: str, name: str = "") -> None:
        for key in (call, f"{call} {name}", "*"):
            if (error := self.failing.get(key)) is not None:
                raise error
        if self.contested and call not in {"get", "list"}:
            self._contests[call] = self._contests.get(call, 0) + 1
            if self._contests[call] % 2:
                self.conflicts += 1
                raise Conflict(f"{call}: the object has been modified")

    def _remove(self, resource: Resource) -> None:
        del self.objects[_key(resource)]
        self.listener(resource, True)
        uid = resource.metadata.uid
        for owned in list(self.objects.values()):
            if any(owner.uid == uid for owner in owned.metadata.owner_references):
                if owned.metadata.finalizers:
                    self.put(owned, deletion_timestamp=datetime.now(UTC))
                else:
                    self._remove(owned)


class FakeData:
    """ConfigMaps and Secrets by (kind, name)."""

    def __init__(self) -> None:
        self.contents: dict[tuple[DataKind, str], dict[str, bytes]] = {}

    async def read(self, kind: DataKind, *, namespace: str, name: str) -> Mapping[str, bytes]:
        if (kind, name) not in self.contents:
            raise NotFound(f"no {kind} {namespace}/{name}", reason=f"{kind}NotFound")
        return self.contents[kind, name]


class FakeRecorder:
    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []

    def record_normal(self, regarding: Resource, *, reason: str, note: str) -> None:
        self.told.append((regarding.metadata.name, reason, note))

    def record_warning(self, regarding: Resource, *, reason: str, note: str) -> None:
        self.told.append((regarding.metadata.name, reason, note))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.told]


def _key(resource: Resource) -> Key:
    meta = resource.metadata
    return (kind_of(type(resource)).name, meta.namespace, meta.name)
