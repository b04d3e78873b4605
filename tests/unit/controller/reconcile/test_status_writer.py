"""Offered statuses become few writes, and the newest one wins."""

from __future__ import annotations

import asyncio

import pytest

from fakes.cluster import FakeCluster
from fakes.resources import placement
from transship.api.placement import ContainerPlacement, PlacementStatus
from transship.common.errors import (
    Conflict,
    Unreachable,
)
from transship.controller.cache import ResourceCache
from transship.controller.reconcile.status_writer import StatusWriter


class TestStatusWriter:
    def writer(
        self, cluster: FakeCluster
    ) -> tuple[ContainerPlacement, StatusWriter[ContainerPlacement, PlacementStatus]]:
        made = cluster.put(placement())
        return made, StatusWriter(made, made.status, cluster=cluster, cache=ResourceCache())

    async def test_many_offers_become_few_writes_and_the_newest_wins(self) -> None:
        cluster = FakeCluster()
        _, writer = self.writer(cluster)
        for epoch in range(1, 50):
            writer.offer(PlacementStatus(epoch=epoch))
        await writer.flush()
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.status.epoch == 49
        assert cluster.status_writes <= 2

    async def test_an_unchanged_status_is_not_written(self) -> None:
        cluster = FakeCluster()
        made, writer = self.writer(cluster)
        writer.offer(made.status)
        await writer.flush()
        assert cluster.status_writes == 0

    async def test_a_write_that_fails_is_repeated(self) -> None:
        cluster = FakeCluster()
        _, writer = self.writer(cluster)
        cluster.failing["apply_status"] = Unreachable("away")
        writer.offer(PlacementStatus(epoch=3))
        await asyncio.sleep(0.02)
        cluster.failing.clear()
        await writer.flush()
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.status.epoch == 3

    async def test_a_claim_conflicts_when_the_object_has_changed(self) -> None:
        cluster = FakeCluster()
        made, writer = self.writer(cluster)
        cluster.edit(ContainerPlacement, "web", target_node="node-b")
        with pytest.raises(Conflict):
            await writer.write(
                PlacementStatus(epoch=1), resource_version=made.metadata.resource_version
            )

    async def test_nothing_is_written_to_an_object_that_is_gone(self) -> None:
        cluster = FakeCluster()
        _, writer = self.writer(cluster)
        cluster.objects.clear()
        writer.offer(PlacementStatus(epoch=3))
        await writer.flush()
        await writer.close()
        assert cluster.status_writes == 0
