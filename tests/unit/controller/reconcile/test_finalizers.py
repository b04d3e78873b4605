"""Our finalizer is added and removed whatever others do to the list."""

from __future__ import annotations

import pytest

from fakes.cluster import FakeCluster
from fakes.resources import placement
from transship.api import FINALIZER
from transship.api.placement import ContainerPlacement
from transship.common.errors import (
    Conflict,
)
from transship.controller.reconcile.finalizers import add_finalizer, removal_patch, remove_finalizer


class TestFinalizers:
    def test_the_patch_holds_for_this_object_and_these_finalizers_only(self) -> None:
        meta = placement(metadata={"uid": "u", "finalizers": ["other"]}).metadata
        assert removal_patch(meta) == []
        patch = removal_patch(meta.model_copy(update={"finalizers": ("other", FINALIZER)}))
        assert {"op": "test", "path": "/metadata/uid", "value": "u"} in patch
        assert {"op": "remove", "path": "/metadata/finalizers/1"} in patch

    async def test_other_finalizers_stay_even_when_they_came_meanwhile(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement())
        cluster.put(known, finalizers=("new", FINALIZER))
        await remove_finalizer(known, cluster=cluster)
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.metadata.finalizers == ("new",)

    async def test_a_later_object_of_the_same_name_keeps_its_own(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement())
        cluster.put(placement(uid="another"))
        await remove_finalizer(known, cluster=cluster)
        found = cluster.find(ContainerPlacement, "web")
        assert found is not None
        assert found.metadata.finalizers == (FINALIZER,)

    async def test_a_finalizer_that_could_not_be_removed_is_an_error(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement())
        cluster.failing["json_patch"] = Conflict("others were faster")
        with pytest.raises(Conflict):
            await remove_finalizer(known, cluster=cluster)

    async def test_ours_is_put_beside_those_that_came_meanwhile(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement(metadata={"finalizers": []}))
        cluster.put(known, finalizers=("new",))
        held = await add_finalizer(known, cluster=cluster)
        assert held is not None
        assert held.metadata.finalizers == ("new", FINALIZER)

    async def test_ours_is_not_put_on_what_is_being_deleted_or_gone(self) -> None:
        cluster = FakeCluster()
        known = cluster.put(placement(metadata={"finalizers": ["new"]}))
        await cluster.delete(ContainerPlacement, name="web", namespace="default")
        held = await add_finalizer(known, cluster=cluster)
        assert held is not None
        assert held.metadata.finalizers == ("new",)
        cluster.put(placement(uid="another"))
        assert await add_finalizer(known, cluster=cluster) is None
        cluster.objects.clear()
        assert await add_finalizer(known, cluster=cluster) is None
