"""ResourceCache: the newest version of each resource, and the events that wake loops.

kopf's events and the replies to our own writes fill it; the loops read it. It may be out of date:
whatever must not happen twice is guarded by the API server (names, resource versions) or an agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from transship.api import FINALIZER
from transship.api.base import Resource
from transship.api.migration import ContainerMigration
from transship.api.node_agent import NodeAgent
from transship.api.placement import ContainerPlacement
from transship.controller.migration.history import is_finished
from transship.controller.node.nodes import Node, unusable
from transship.controller.node.requests import Demand, demands_by_node
from transship.kube.listing import Listing

R = TypeVar("R", bound=Resource)

NO_LOOP_AFTER_SECONDS = 180.0


class ResourceCache:
    """Three kinds, by uid (node agents by name), and one wake-up event per loop."""

    def __init__(self) -> None:
        self._placements: dict[str, ContainerPlacement] = {}
        self._migrations: dict[str, ContainerMigration] = {}
        self._of_placement: dict[str, set[str]] = {}
        self._nodes: dict[str, NodeAgent] = {}
        self._unreadable_nodes: set[str] = set()
        self._out_of_service: frozenset[str] = frozenset()
        self._wakes: dict[str, asyncio.Event] = {}
        self._waiting_since: dict[str, float] = {}
        self._reserved: dict[str, str] = {}
        self._demands: dict[str, tuple[Demand, ...]] | None = None

    def placement(self, uid: str) -> ContainerPlacement | None:
        return self._placements.get(uid)

    def migration(self, uid: str) -> ContainerMigration | None:
        return self._migrations.get(uid)

    def migrations_of(self, placement_uid: str) -> tuple[ContainerMigration, ...]:
        return tuple(self._migrations[uid] for uid in self._of_placement.get(placement_uid, ()))

    def moves(self) -> dict[str, tuple[str, str]]:
        """Source and target of every move under way, by its placement."""
        return {
            m.spec.placement_uid: (m.spec.source_node, m.spec.target_node)
            for m in self._migrations.values()
            if not is_finished(m)
        }

    def node_agent(self, name: str) -> NodeAgent | None:
        return self._nodes.get(name)

    def has_node(self, name: str) -> bool:
        """Whether there is such a NodeAgent, be it one that cannot be read."""
        return name in self._nodes or name in self._unreadable_nodes

    def note_unreadable(self, kind: type[Resource], name: str) -> None:
        """The object exists: its last readable version stays, and a node does not count as gone."""
        if kind is NodeAgent:
            self._unreadable_nodes.add(name)

    def is_out_of_service(self, name: str) -> bool:
        """Whether the Kubernetes Node of this name has the taint."""
        return name in self._out_of_service

    def put_out_of_service(self, names: Iterable[str]) -> None:
        """Set the nodes that have the taint."""
        tainted = frozenset(names)
        changed, self._out_of_service = tainted ^ self._out_of_service, tainted
        for name in changed:
            self.wake(self.interested_in(name))

    def note_out_of_service(self, name: str, *, tainted: bool) -> None:
        """Set or remove the taint of one node."""
        others = self._out_of_service - {name}
        self.put_out_of_service(others | {name} if tainted else others)

    def node_agents(self) -> tuple[NodeAgent, ...]:
        return tuple(self._nodes.values())

    def loads(self) -> dict[str, int]:
        """How many placements each node has. A placement that moves counts on both nodes."""
        counts: dict[str, int] = {}
        for placement in self._placements.values():
            node = placement.status.node or placement.spec.target_node
            if node is not None:
                counts[node] = counts.get(node, 0) + 1
        for migration in self._migrations.values():
            if not is_finished(migration):
                target = migration.spec.target_node
                counts[target] = counts.get(target, 0) + 1
        return counts

    def demands(self) -> dict[str, tuple[Demand, ...]]:
        """What is requested of each node. Computed anew only after a change."""
        if self._demands is None:
            self._demands = demands_by_node(
                self._placements.values(), self._migrations.values(), reserved=self._reserved
            )
        return self._demands

    @contextmanager
    def reserving(self, uid: str, *, node: str) -> Iterator[None]:
        """Count a placement on a node while its owner or its migration is being written."""
        self._reserved[uid], self._demands = node, None
        try:
            yield
        finally:
            del self._reserved[uid]
            self._demands = None

    def wake_of(self, uid: str) -> asyncio.Event:
        """The event that wakes the loop of this object."""
        return self._wakes.setdefault(uid, asyncio.Event())

    def wake_without_address(self) -> None:
        """Wake placements without an address: a pool has changed, and may have one now."""
        self.wake(uid for uid, p in self._placements.items() if p.status.address is None)

    def wake(self, uids: Iterable[str]) -> None:
        for uid in uids:
            if (event := self._wakes.get(uid)) is not None:
                event.set()

    def put(self, resource: Resource) -> Resource:
        """Put in a resource; returns the newest version of the same object."""
        self._demands = None
        match resource:
            case ContainerPlacement():
                self._put_placement(resource)
                return self._placements[resource.metadata.uid]
            case ContainerMigration():
                self._put_migration(resource)
                return self._migrations[resource.metadata.uid]
            case NodeAgent():
                self._put_node(resource)
                return self._nodes[resource.metadata.name]
            case _:
                return resource  # address pools are read where they are changed

    def drop(self, resource: Resource) -> None:
        """Remove a resource that is gone."""
        self._demands = None
        uid = resource.metadata.uid
        match resource:
            case ContainerPlacement():
                self._placements.pop(uid, None)
                if not self._of_placement.get(uid):
                    self._of_placement.pop(uid, None)
                self.wake(m.metadata.uid for m in self.migrations_of(uid))
            case ContainerMigration():
                self._migrations.pop(uid, None)
                self._of_placement.get(resource.spec.placement_uid, set()).discard(uid)
                self.wake([resource.spec.placement_uid])
            case NodeAgent():
                self._nodes.pop(resource.metadata.name, None)
                self.wake(self.interested_in(resource.metadata.name))
            case _:
                pass
        self.wake([uid])

    def forget(self, uid: str) -> None:
        """The loop of this object has ended."""
        self._wakes.pop(uid, None)

    def with_finalizer(self) -> list[Resource]:
        """Everything that has our finalizer."""
        known = (*self._placements.values(), *self._migrations.values())
        return [resource for resource in known if FINALIZER in resource.metadata.finalizers]

    def without_loop(self, *, at: float, with_loop: frozenset[str]) -> list[str]:
        """Names of placements that have had no loop for long, by our own clock alone."""
        waiting = {
            uid: p.metadata.name
            for uid, p in self._placements.items()
            if uid not in with_loop and p.metadata.deletion_timestamp is None
        }
        self._waiting_since = {uid: self._waiting_since.get(uid, at) for uid in waiting}
        return [
            name
            for uid, name in waiting.items()
            if at - self._waiting_since[uid] > NO_LOOP_AFTER_SECONDS
        ]

    def uids(self, kind: type[R]) -> frozenset[str]:
        return frozenset(resource.metadata.uid for resource in self._all(kind))

    def keep_only(self, kind: type[R], listing: Listing[R], *, instead_of: frozenset[str]) -> None:
        """Replace the resources of a kind with these uids by a complete list.

        instead_of: the uids before the list was requested; a resource that came later stays.
        """
        if kind is NodeAgent:
            self._unreadable_nodes.clear()
        for unreadable in listing.unreadable:
            self.note_unreadable(kind, unreadable.name)
        for resource in listing.resources:
            self.put(resource)
        for cached in self._all(kind):
            if cached.metadata.uid in instead_of - listing.uids:
                self.drop(cached)

    def _all(self, kind: type[R]) -> list[Resource]:
        if kind is ContainerPlacement:
            return list(self._placements.values())
        if kind is ContainerMigration:
            return list(self._migrations.values())
        return list(self._nodes.values())

    def _put_placement(self, placement: ContainerPlacement) -> None:
        uid = placement.metadata.uid
        known = self._placements.get(uid)
        if not _is_newer(placement, known):
            return
        self._placements[uid] = placement
        if known is None or _watched_of_placement(known) != _watched_of_placement(placement):
            self.wake([uid, *(m.metadata.uid for m in self.migrations_of(uid))])

    def _put_migration(self, migration: ContainerMigration) -> None:
        uid = migration.metadata.uid
        known = self._migrations.get(uid)
        if not _is_newer(migration, known):
            return
        self._migrations[uid] = migration
        self._of_placement.setdefault(migration.spec.placement_uid, set()).add(uid)
        if known is None or _watched_of_migration(known) != _watched_of_migration(migration):
            self.wake([uid])
        if (
            known is None
            or known.status != migration.status
            or _watched_of_migration(known) != _watched_of_migration(migration)
        ):
            self.wake([migration.spec.placement_uid])

    def _put_node(self, agent: NodeAgent) -> None:
        name = agent.metadata.name
        known = self._nodes.get(name)
        same = known is not None and known.metadata.uid == agent.metadata.uid
        if same and not _is_newer(agent, known):
            return
        self._nodes[name] = agent
        self._unreadable_nodes.discard(name)
        if known is None or _watched_of_node(known) != _watched_of_node(agent):
            self.wake(self.interested_in(name))

    def interested_in(self, node: str) -> set[str]:
        """The loops that a change of this node matters to."""
        placements = [
            uid
            for uid, p in self._placements.items()
            if p.status.node == node or p.spec.target_node in {None, node}
        ]
        migrations = [
            uid
            for uid, m in self._migrations.items()
            if node in {m.spec.source_node, m.spec.target_node} and not is_finished(m)
        ]
        return {*placements, *migrations}


def _is_newer(resource: Resource, known: Resource | None) -> bool:
    """Whether it replaces the known version. A resource version that is not a number does."""
    if known is None:
        return True
    ours, theirs = known.metadata.resource_version, resource.metadata.resource_version
    if not (ours.isdecimal() and theirs.isdecimal()):
        return True
    return int(theirs) > int(ours)


def _watched_of_placement(placement: ContainerPlacement) -> tuple[object, ...]:
    """The fields whose change wakes loops. The status is not among them: its own loop writes it."""
    meta = placement.metadata
    return (
        meta.generation,
        meta.deletion_timestamp,
        meta.finalizers,
        placement.status.cancelled_generation,
    )


def _watched_of_migration(migration: ContainerMigration) -> tuple[object, ...]:
    meta = migration.metadata
    return (meta.deletion_timestamp, meta.finalizers)


def _watched_of_node(agent: NodeAgent) -> tuple[object, ...]:
    """The fields whose change wakes loops. The figures change with every heartbeat."""
    barred = unusable(Node(agent))
    reason = barred.reason if barred is not None else None
    return (reason, agent.metadata.labels, agent.status.endpoint, agent.metadata.uid)
