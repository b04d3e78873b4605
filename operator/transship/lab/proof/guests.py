"""Witnesses as placements: making one, waiting until it runs, and a lab in which none is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from transship.api.base import ObjectMeta
from transship.api.container import Container, EnvVar, Probe, TcpSocketAction
from transship.api.placement import ContainerPlacement, MigrationSettings, PlacementSpec, Strategy
from transship.common.errors import DeadlineExceeded, TransshipError
from transship.lab.proof import world_check
from transship.lab.proof.cluster import NAMESPACE, Cluster
from transship.lab.proof.counter_client import PORT
from transship.lab.proof.inventory import Inventory, without_forwards
from transship.lab.proof.world_check import Guest, World, until_none
from transship.lab.state import LabState

MEMORY_MIB, DIRTY_MIB_PER_SECOND = 16, 4
START_SECONDS = 60.0
END_SECONDS = 60.0
ANSWERS = Probe(tcp_socket=TcpSocketAction(port=PORT), period_seconds=1)


def placement(
    state: LabState, name: str, *, node: str, strategy: Strategy, tries_again: bool = True
) -> ContainerPlacement:
    env = (
        EnvVar(name="MEMORY_MIB", value=str(MEMORY_MIB)),
        EnvVar(name="DIRTY_MIB_PER_SECOND", value=str(DIRTY_MIB_PER_SECOND)),
    )
    backoff = None if tries_again else 0
    return ContainerPlacement(
        metadata=ObjectMeta(name=name, namespace=NAMESPACE),
        spec=PlacementSpec(
            target_node=node,
            container=Container(
                image=f"{state.registry}/witness:1", env=env, readiness_probe=ANSWERS
            ),
            migration=MigrationSettings(strategy=strategy, backoff_limit=backoff),
        ),
    )


def await_running(world: World, guest: Guest, *, node: str) -> None:
    """And learn its id and its address. Raises DeadlineExceeded."""
    findings = until_none(lambda: _starting(world, guest, node=node), seconds=START_SECONDS)
    if findings:
        raise DeadlineExceeded(f"starting {guest.name}: {'; '.join(findings)}")


def _starting(world: World, guest: Guest, *, node: str) -> list[str]:
    found = world.cluster.placement(guest.name)
    if found is None or found.status.address is None:
        return ["it has no address yet"]
    guest.container, guest.address = found.metadata.uid or "", found.status.address
    return world_check.whole(world, guest, node=node)


def still_there(world: World, guest: Guest) -> list[str]:
    """What of a placement that was deleted has not gone yet."""
    found = [
        f"migration {m.metadata.name} does not go" for m in world.cluster.migrations(guest.name)
    ]
    if world.cluster.placement(guest.name) is not None:
        found.append(f"placement {guest.name} does not go")
    return found


def inventories(world: World) -> dict[str, Inventory]:
    return {node: without_forwards(world.inventory(node)) for node in world.state.nodes}


@contextmanager
def at_rest(state: LabState) -> Iterator[World]:
    """A lab whose nodes have had and moved containers, and hold none now.

    The first of them leave folders and cgroups on a node that serve all that follow.
    """
    if state.kubeconfig is None:
        raise TransshipError(f"lab {state.name} is not complete", hint="transship lab up")
    with Cluster(state.kubeconfig) as cluster:
        world = World(cluster, state)
        first, *others = state.nodes
        guest = Guest("first", "", "")
        cluster.create(placement(state, guest.name, node=first, strategy=Strategy.AUTO))
        await_running(world, guest, node=first)
        for node in (*others, first):
            cluster.edit(guest.name, {"targetNode": node})
            _require_none(until_none(partial(world_check.whole, world, guest, node=node),
                                     seconds=END_SECONDS))  # fmt: skip
        cluster.delete(guest.name)
        _require_none(until_none(partial(still_there, world, guest), seconds=END_SECONDS))
        _require_none(until_none(world.forwards, seconds=END_SECONDS))
        yield replace(world, rest=inventories(world))


def _require_none(findings: list[str]) -> None:
    if findings:
        raise TransshipError(f"preparing the lab: {'; '.join(findings)}")
