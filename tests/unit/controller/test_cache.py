"""What the cache keeps, and whom a change wakes."""

from __future__ import annotations

from typing import Any, TypeVar

from fakes.resources import NOW, UID, ended, migration, node_agent, placement
from transship.api.base import Resource
from transship.api.placement import ContainerPlacement, PlacementPhase, PlacementStatus
from transship.controller.cache import ResourceCache
from transship.kube.listing import Listing, Unreadable

R = TypeVar("R", bound=Resource)


def versioned(resource: R, version: int, **metadata: Any) -> R:
    update = {"resource_version": str(version), **metadata}
    meta = resource.metadata.model_copy(update=update)
    return resource.model_copy(update={"metadata": meta})


def with_status(made: ContainerPlacement, phase: PlacementPhase) -> ContainerPlacement:
    return made.model_copy(update={"status": PlacementStatus(phase=phase)})


class TestResourceCache:
    def test_an_older_version_does_not_replace_a_newer_one(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(with_status(placement(), PlacementPhase.RUNNING), 12))
        cache.put(versioned(with_status(placement(), PlacementPhase.PENDING), 9))
        found = cache.placement(UID)
        assert found is not None
        assert found.status.phase == PlacementPhase.RUNNING

    def test_our_own_status_writes_wake_no_loop_and_edits_do(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(), 1))
        wake = cache.wake_of(UID)
        cache.put(versioned(with_status(placement(), PlacementPhase.RUNNING), 2))
        assert not wake.is_set()
        cache.put(versioned(placement(), 3, generation=2))
        assert wake.is_set()

    def test_a_migration_wakes_its_placement_with_every_change(self) -> None:
        cache = ResourceCache()
        wake = cache.wake_of(UID)
        cache.put(versioned(migration(), 1))
        assert wake.is_set()
        wake.clear()
        cache.put(versioned(ended(migration(), good=True), 2))
        assert wake.is_set()
        wake.clear()
        cache.drop(migration())
        assert wake.is_set()
        assert cache.migrations_of(UID) == ()

    def test_a_heartbeat_wakes_no_loop_and_a_cordon_does(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(target_node="node-a"), 1))
        cache.put(versioned(node_agent("node-a"), 1))
        wake = cache.wake_of(UID)
        wake.clear()
        cache.put(versioned(node_agent("node-a", capacity={"freeMemoryBytes": 5}), 2))
        assert not wake.is_set()
        cache.put(versioned(node_agent("node-a", unschedulable=True), 3))
        assert wake.is_set()

    def test_a_list_drops_only_what_was_known_before_it_was_asked_for(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(migration(attempt=1), 1))
        known = cache.uids(type(migration()))
        cache.put(versioned(migration(attempt=2), 2))
        cache.keep_only(type(migration()), Listing(()), instead_of=known)
        assert [m.spec.attempt for m in cache.migrations_of(UID)] == [2]

    def test_what_a_list_has_but_cannot_be_read_stays_as_it_was_known(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(), 1))
        hidden = Unreadable("ContainerPlacement", "web", "default", UID, "2", "spec: missing")
        found = Listing[ContainerPlacement]((), (hidden,))
        cache.keep_only(ContainerPlacement, found, instead_of=frozenset({UID}))
        assert cache.placement(UID) is not None
        gone = Listing[ContainerPlacement](())
        cache.keep_only(ContainerPlacement, gone, instead_of=frozenset({UID}))
        assert cache.placement(UID) is None

    def test_a_placement_without_a_loop_is_noticed_after_minutes(self) -> None:
        cache = ResourceCache()
        nobody: frozenset[str] = frozenset()
        cache.put(versioned(placement(), 1, creation_timestamp=NOW, finalizers=()))
        assert cache.without_loop(at=1000.0, with_loop=nobody) == []
        assert cache.without_loop(at=1060.0, with_loop=nobody) == []
        assert cache.without_loop(at=1300.0, with_loop=nobody) == ["web"]
        assert cache.without_loop(at=1300.0, with_loop=frozenset({UID})) == []

    def test_loads_count_moves_under_way(self) -> None:
        cache = ResourceCache()
        cache.put(versioned(placement(target_node="node-a"), 1))
        cache.put(versioned(migration(target="node-b"), 1))
        cache.put(versioned(ended(migration(epoch=2, target="node-c"), good=True), 1))
        assert cache.loads() == {"node-a": 1, "node-b": 1}
