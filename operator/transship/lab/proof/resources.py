"""Blocking access to the lab's placements and migrations, with the client's deadline per call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from transship.api.base import Resource
from transship.api.migration import ContainerMigration
from transship.api.placement import ContainerPlacement
from transship.common.errors import NotFound
from transship.kube.client import KubeClient

NAMESPACE = "default"


class LabResources:
    """Placements and migrations of one namespace."""

    def __init__(self, kubeconfig: Path) -> None:
        self._runner = asyncio.Runner()
        self._client = self._runner.run(KubeClient.connect(kubeconfig))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def create(self, placement: ContainerPlacement) -> None:
        self._runner.run(self._client.create(placement))

    def edit(self, name: str, spec: Mapping[str, Any]) -> None:
        patch = self._client.merge_patch(
            ContainerPlacement, name=name, namespace=NAMESPACE, patch={"spec": spec}
        )
        self._runner.run(patch)

    def delete(self, name: str) -> None:
        """Request the deletion. It does not wait, and accepts a placement that is gone."""
        self._delete(ContainerPlacement, name)

    def delete_migration(self, name: str) -> None:
        self._delete(ContainerMigration, name)

    def placement(self, name: str) -> ContainerPlacement | None:
        get = self._client.get(ContainerPlacement, name=name, namespace=NAMESPACE)
        try:
            return self._runner.run(get)
        except NotFound:
            return None

    def placements(self) -> tuple[ContainerPlacement, ...]:
        return self._runner.run(self._client.list(ContainerPlacement, namespace=NAMESPACE))

    def migrations(self, placement: str) -> list[ContainerMigration]:
        """The migrations of one placement, oldest first."""
        return sorted(
            (m for m in self.all_migrations() if m.spec.placement_name == placement),
            key=lambda m: (m.spec.epoch, m.spec.attempt),
        )

    def all_migrations(self) -> tuple[ContainerMigration, ...]:
        return self._runner.run(self._client.list(ContainerMigration, namespace=NAMESPACE))

    def _delete(self, model: type[Resource], name: str) -> None:
        with suppress(NotFound):
            self._runner.run(self._client.delete(model, name=name, namespace=NAMESPACE))
