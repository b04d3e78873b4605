"""The check after all that was broken: the container is whole, alone, and truly told of.

One look gives all that is wrong at that moment; a world that needs time to settle is looked at
again until nothing is. Shared by the fault tests and the soak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from transship.api.conditions import find, is_true
from transship.api.migration import ContainerMigration, MigrationPhase
from transship.api.placement import ContainerPlacement, PlacementPhase
from transship.api.reasons import Reason
from transship.lab.nodes import nodes
from transship.lab.proof import copies, inventory, witness
from transship.lab.proof.cluster import Cluster
from transship.lab.proof.counter_client import CounterClient
from transship.lab.proof.inventory import Inventory
from transship.lab.state import LabState, lab_dir

POLL_SECONDS = 0.1
REPLIES = 5  # in a row, from which one sees that a connection goes on
REPLIES_SECONDS = 0.5


@dataclass
class Guest:
    """A witness under observation, and what is known of it from before."""

    name: str
    container: str
    address: str
    run: str = ""  # the name that the program gave itself at its start
    client: CounterClient | None = None
    acknowledged: int = 0  # by earlier connections
    restarted: bool = False  # its node died with it

    @property
    def last_acknowledged(self) -> int:
        return max(self.acknowledged, 0 if self.client is None else self.client.number)


@dataclass(frozen=True)
class World:
    """A lab with its resources, and what its nodes hold when they hold no container."""

    cluster: Cluster
    state: LabState
    rest: Mapping[str, Inventory] = field(default_factory=dict)

    def inventory(self, node: str) -> Inventory:
        return inventory.take(lab_dir(self.state.name), self.state, node)

    def forwards(self) -> list[str]:
        """Detours for containers that have left: they end by themselves after a while."""
        return [
            f"left on {node}: {item}"
            for node in self.state.nodes
            for item in sorted(self.inventory(node))
            if item.startswith(inventory.FORWARD)
        ]

    def leftovers(self, node: str) -> list[str]:
        """What a node without a container has more, or less, than at rest."""
        if not nodes.node_alive(lab_dir(self.state.name), node):
            return [f"{node} does not run"]
        now, rest = inventory.without_forwards(self.inventory(node)), self.rest[node]
        more = [f"left on {node}: {item}" for item in sorted(now - rest)]
        less = [item for item in sorted(rest - now) if item.startswith(inventory.LASTS)]
        return more + [f"missing on {node}: {item}" for item in less]


def until_none(look: Callable[[], list[str]], *, seconds: float) -> list[str]:
    """Look until there are no findings; those of the last look when time is over."""
    deadline = time.monotonic() + seconds
    while findings := look():
        if time.monotonic() > deadline:
            return findings
        time.sleep(POLL_SECONDS)
    return []


def unfinished(world: World, guest: Guest) -> list[str]:
    """Migrations that are still under way."""
    return [
        f"migration {m.metadata.name} is {m.status.phase}: {m.status.message or ''}"
        for m in world.cluster.migrations(guest.name)
        if m.status.phase is None or not m.status.phase.finished
    ]


def whole(world: World, guest: Guest, *, node: str) -> list[str]:
    """Everything about a container that is to run on this node, and rest."""
    placement = world.cluster.placement(guest.name)
    if placement is None:
        return [f"placement {guest.name} is gone"]
    found = [*unfinished(world, guest), *_settled(placement, node=node)]
    found += [f for m in world.cluster.migrations(guest.name) for f in told(m)]
    if found:
        return found
    return [*alone(world.state, guest, node=node), *_alive(guest), *_itself(guest)]


def alone(state: LabState, guest: Guest, *, node: str) -> list[str]:
    where = copies.nodes_with_copies(state, guest.container)
    if where == (node,):
        return []
    return [f"{guest.name} has processes on {' and '.join(where) or 'no node'}, not on {node}"]


def told(migration: ContainerMigration) -> Iterator[str]:
    """What is missing in the story of a migration that has ended."""
    status, name = migration.status, migration.metadata.name
    summary = find(status.conditions, "Succeeded")
    succeeded = status.phase is MigrationPhase.SUCCEEDED
    if status.phase is None or not status.phase.finished:
        return
    if summary is None or (summary.status == "True") is not succeeded:
        yield f"migration {name} is {status.phase}, its condition says {summary}"
    if succeeded:
        return
    reason = next((known for known in Reason if known == status.reason), None)
    if reason is None:
        yield f"migration {name} ended for a reason that is in no table: {status.reason!r}"
        return
    if not status.message:
        yield f"migration {name} ended without a message ({reason})"
    if reason.hint and not status.hint:
        yield f"migration {name} ended without a hint ({reason})"


def _settled(placement: ContainerPlacement, *, node: str) -> Iterator[str]:
    name, status = placement.metadata.name, placement.status
    if status.node != node:
        yield f"{name}: its status says node {status.node}, not {node}"
    if status.phase is not PlacementPhase.RUNNING:
        yield f"{name} is {status.phase}"
    for kind, wanted in (("Ready", True), ("Reconciling", False), ("Stalled", False)):
        if is_true(status.conditions, kind) is not wanted:
            seen = find(status.conditions, kind)
            yield f"{name}: {kind} is not {wanted}: {seen.message if seen else 'no such condition'}"
    if status.migration is not None:
        yield f"{name}: its status still has migration {status.migration.name}"


def _alive(guest: Guest) -> list[str]:
    """The one connection goes on, unless the container's node died with it."""
    client = guest.client
    if client is None or (guest.restarted and client.error):
        return []
    before, deadline = client.number, time.monotonic() + REPLIES_SECONDS
    while time.monotonic() < deadline:
        if client.error:
            return [] if guest.restarted else [f"the client's connection broke: {client.error}"]
        if client.number >= before + REPLIES:
            return []
        time.sleep(0.005)
    return [] if guest.restarted else ["the client's connection does not go on"]


def _itself(guest: Guest) -> list[str]:
    acknowledged = guest.last_acknowledged
    try:
        testimony = witness.hear(guest.address)
    except OSError as e:
        return [f"{guest.name} does not answer: {e}"]
    if testimony.broken:
        return [f"{guest.name} is broken: {testimony.broken}"]
    found = []
    if testimony.last < acknowledged:
        found.append(f"{guest.name} gave {acknowledged}, and has only {testimony.last} lines")
    if guest.run and testimony.name != guest.run and not guest.restarted:
        found.append(f"{guest.name} was started anew")
    return found
